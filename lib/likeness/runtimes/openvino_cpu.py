"""OpenVINO on the CPU: converted from the torch network once, then loaded without torch.   [openvino]"""

import fcntl
import os
import sys
import threading
import warnings
from pathlib import Path

import numpy as np

from likeness import stores, uris
from likeness.backbones import Space
from likeness.errors import ServiceError

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
        if not stores.files(uri).exists(uri):
            stores.files(uri).upload(str(part), uri)


def _fetched(path: Path, shelf: str) -> bool:
    if not shelf or not stores.files(shelf).exists(uris.join(shelf, path.name)):
        return False
    for part in (path.with_suffix(".bin"), path):
        stores.fetch(uris.join(shelf, part.name), part)
    return True


def _whole(path: Path) -> bool:
    return path.exists() and path.with_suffix(".bin").exists()


def _convert(space: Space, path: Path, cache: str) -> None:
    import torch

    from likeness.runtimes.torch_any import Normalised

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
            self._model = core.compile_model(core.read_model(path), "CPU", options)
        except RuntimeError as error:
            raise ServiceError(f"{path} cannot be loaded: {error}; delete it, it is made again") from None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, crop, crop, 3) RGB to float32 (n, dim)."""
        with self._turn:
            vectors: np.ndarray = self._model(np.ascontiguousarray(images))[0]
        return vectors
