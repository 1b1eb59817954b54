"""OpenVINO on the CPU: converted from the torch network once, then loaded without torch.   [openvino]"""

import fcntl
import math
import os
import sys
import threading
import warnings
from pathlib import Path

import numpy as np

from likeness import storage
from likeness.core import uris
from likeness.core.errors import ServiceError
from likeness.models.backbones import Space

# OpenVINO would tell its makers that it is used, from a fork of this process, which breaks the line to Spark's JVM
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402


def convert(space: Space, cache: str, shelf: str = "") -> Path:
    """The network's intermediate representation in the cache; if it is missing, copied from a shelf or made.

    Args:
        space: the network.
        cache: a folder of this machine.
        shelf: URI of a folder where `offer` may have put it; empty for none.

    The file appears by rename, and a lock keeps two workers from converting at once.

    Raises:
        ServiceError: the cache cannot be written.
    """
    folder = Path(cache).expanduser()
    path = folder / f"{space.id}-openvino{ov.__version__.split('-')[0]}.xml"
    if _whole(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{space.id}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _whole(path) and not _fetched(path, shelf):
                _convert(space, path, cache)
    except OSError as error:
        raise ServiceError(f"extract.cache = {cache}: {error}; name a folder that can be written") from None
    return path


def offer(path: Path, shelf: str) -> None:
    """Puts a converted network where the other machines find it."""
    for part in (path.with_suffix(".bin"), path):
        uri = uris.join(shelf, part.name)
        if not storage.files(uri).exists(uri):
            storage.files(uri).upload(str(part), uri)


def _fetched(path: Path, shelf: str) -> bool:
    if not shelf or not storage.files(shelf).exists(uris.join(shelf, path.name)):
        return False
    for part in (path.with_suffix(".bin"), path):
        storage.fetch(uris.join(shelf, part.name), part)
    return True


def _whole(path: Path) -> bool:
    return path.exists() and path.with_suffix(".bin").exists()


def _convert(space: Space, path: Path, cache: str) -> None:
    import torch

    from likeness.models.runtimes.torch_any import Normalised

    size = space.preprocessing.side
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of its own future
        model = ov.convert_model(Normalised(space, cache).eval(), example_input=example)
    model.reshape({0: [-1, size, size, 3]})
    draft = path.with_name(f"{path.stem}.{os.getpid()}.xml")
    ov.save_model(model, draft, compress_to_fp16=False)
    # the weights go first: whoever sees the .xml finds its .bin
    draft.with_suffix(".bin").replace(path.with_suffix(".bin"))
    draft.replace(path)


class OpenVinoRuntime:
    """The network run by OpenVINO, in float32 or, on processors that have it and if so told, in bfloat16.

    Threads are not pinned: two workers that pin would share one core. Callers in several threads take turns,
    for there is one request, and with it one place for the answer.
    """

    at_once = 1
    busy_s = 0.0

    def __init__(self, space: Space, cache: str, threads: int, shelf: str = "", precision: str = "auto") -> None:
        self.name = f"openvino {ov.__version__.split('-')[0]} cpu"
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._turn = threading.Lock()
        core, path = ov.Core(), convert(space, cache, shelf)
        try:
            model = core.read_model(path)
            self._model = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ServiceError(f"{path} cannot be loaded: {error}; delete it, it is made again") from None
        self.together = threads * _together(model, path.with_suffix(".bin").stat().st_size)
        """Photos that go through the network at once, at most."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, crop, crop, 3) RGB to float32 (n, dim), as many at once as is fastest."""
        parts = np.array_split(np.ascontiguousarray(images), -(-len(images) // self.together))
        with self._turn:
            vectors: list[np.ndarray] = [self._model(part)[0] for part in parts]
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)


def _together(model: ov.Model, weights: int) -> int:
    """Photos that go through a network at once on one thread; its weights take so many bytes.

    Each time the weights are read; the more photos, the less of their maps is still in the processor's cache when the
    next layer reads them. So many that the one is about as much as the other was the fastest for all networks tried.
    """
    maps = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            shape = node.get_output_partial_shape(0)
            maps += 4 * math.prod(size.get_length() for size in list(shape)[1:] if size.is_static)
    return max(2, round(2 * weights / max(1, maps)))
