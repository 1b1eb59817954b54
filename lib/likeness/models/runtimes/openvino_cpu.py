"""OpenVINO on the CPU: networks are converted from torch once, then loaded without torch.   [openvino]"""

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

# OpenVINO's telemetry forks this process, which breaks the connection to Spark's JVM
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402


def convert(space: Space, cache: str, shared: str = "") -> Path:
    """Returns the path of a network's OpenVINO file in the cache; downloads or converts it if it is missing.

    The file appears by rename, and a lock keeps two workers from converting at the same time.

    Args:
        space: the network.
        cache: a folder of this machine.
        shared: URI of a folder where `upload` may have put it; empty for none.

    Raises:
        ServiceError: the cache cannot be written.
    """
    folder = Path(cache).expanduser()
    path = folder / f"{space.id}-openvino{ov.__version__.split('-')[0]}.xml"
    if _is_complete(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{space.id}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_complete(path) and not _download(path, shared):
                _convert(space, path, cache)
    except OSError as error:
        raise ServiceError(f"extract.cache = {cache}: {error}; name a folder that can be written") from None
    return path


def upload(path: Path, shared: str) -> None:
    """Uploads a converted network to a folder that other machines read."""
    for part in (path.with_suffix(".bin"), path):
        uri = uris.join(shared, part.name)
        if not storage.files(uri).exists(uri):
            storage.files(uri).upload(str(part), uri)


def _download(path: Path, shared: str) -> bool:
    if not shared or not storage.files(shared).exists(uris.join(shared, path.name)):
        return False
    for part in (path.with_suffix(".bin"), path):
        storage.fetch(uris.join(shared, part.name), part)
    return True


def _is_complete(path: Path) -> bool:
    return path.exists() and path.with_suffix(".bin").exists()


def _convert(space: Space, path: Path, cache: str) -> None:
    import torch

    from likeness.models.runtimes.torch_any import EmbeddingModel

    size = space.preprocessing.side
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's tracer
        model = ov.convert_model(EmbeddingModel(space, cache).eval(), example_input=example)
    model.reshape({0: [-1, size, size, 3]})
    draft = path.with_name(f"{path.stem}.{os.getpid()}.xml")
    ov.save_model(model, draft, compress_to_fp16=False)
    # the weights first: a reader that sees the .xml must find its .bin
    draft.with_suffix(".bin").replace(path.with_suffix(".bin"))
    draft.replace(path)


class OpenVinoRuntime:
    """A network run by OpenVINO, in float32 or, with `precision` bfloat16 on processors that have it, in bfloat16.

    Threads are not pinned: two workers that pin would share one core. Calls from several threads run one after the
    other, because there is one inference request with one output buffer.
    """

    max_passes = 1
    busy_s = 0.0

    def __init__(self, space: Space, cache: str, threads: int, shared: str = "", precision: str = "auto") -> None:
        self.name = f"openvino {ov.__version__.split('-')[0]} cpu"
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._lock = threading.Lock()
        core, path = ov.Core(), convert(space, cache, shared)
        try:
            model = core.read_model(path)
            self._model = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ServiceError(f"{path} cannot be loaded: {error}; delete it, it is converted again") from None
        self.batch_size = threads * _batch_size_per_thread(model, path.with_suffix(".bin").stat().st_size)
        """Photos of a forward pass, at most."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Runs the network on uint8 (n, side, side, 3) RGB, in batches of the fastest size, to float32 (n, dim)."""
        parts = np.array_split(np.ascontiguousarray(images), -(-len(images) // self.batch_size))
        with self._lock:
            vectors: list[np.ndarray] = [self._model(part)[0] for part in parts]
        return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)


def _batch_size_per_thread(model: ov.Model, weights: int) -> int:
    """The fastest batch size on one thread of a network whose weights take `weights` bytes.

    Each pass reads all weights, which favours large batches; large batches push feature maps out of the processor's
    cache before the next layer reads them. For all networks measured, the fastest size reads about as many bytes of
    weights as of maps.
    """
    maps = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            shape = node.get_output_partial_shape(0)
            maps += 4 * math.prod(size.get_length() for size in list(shape)[1:] if size.is_static)
    return max(2, round(2 * weights / max(1, maps)))
