"""Runtimes: run the network of a feature space, uint8 (n, side, side, 3) to float32 (n, dim).   [torch, openvino]"""

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from likeness.core import uris
from likeness.core.errors import ServiceError
from likeness.core.settings import Limits, Settings
from likeness.images.image import BadImage
from likeness.models.backbones import Space

FallbackDecoder = Callable[[bytes], "Future[np.ndarray]"]
"""Starts to decode a photo in a process; the future gives uint8 (side, side, 3), or raises BadImage."""
BatchDecoder = Callable[[Sequence[bytes]], tuple[Any, dict[int, BadImage]]]
"""Encoded photos to a runtime's input, (m, side, side, 3), and the failures by the photo's number in the batch."""


class Runtime(Protocol):
    """A loaded network: a callable from pixels to vectors.

    `name` says what runs it, as `torch 2.9 cuda`. `max_passes` is the number of forward passes that are worth running
    at the same time.
    """

    name: str
    max_passes: int

    @property
    def busy_s(self) -> float:
        """Seconds that the GPU has been busy so far; 0 where there is none."""
        ...

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Runs the network on uint8 (n, side, side, 3) RGB, or what `decoder` gives; returns float32 (n, dim)."""
        ...


@runtime_checkable
class DecodingRuntime(Runtime, Protocol):
    """A runtime that also decodes photos, on the device of its network."""

    def decoder(self, limits: Limits, fallback: FallbackDecoder) -> BatchDecoder:
        """Returns a decoder; it leaves photos that the device cannot decode to `fallback`."""
        ...


def require_decoding(runtime: Runtime) -> DecodingRuntime:
    """Returns the runtime, if it can decode photos.

    Raises:
        ServiceError: it cannot.
    """
    if not isinstance(runtime, DecodingRuntime):
        raise ServiceError(
            f"extract.decode = 'network': {runtime.name} decodes no photos; set extract.runtime to torch, "
            "or extract.decode to processes"
        )
    return runtime


def choose_runtime(name: str) -> str:
    """Resolves `auto` to the best runtime for this machine; checks that a named one is installed.

    Raises:
        ServiceError: no runtime, or not the named one, is installed.
    """
    if name != "auto":
        if not importlib.util.find_spec(name):
            raise ServiceError(f"extract.runtime = {name!r}, which is not installed; install likeness[extract]")
        return name
    # looking for the driver's device costs nothing, importing torch costs seconds
    if Path("/dev/nvidia0").exists() and importlib.util.find_spec("torch"):
        return "torch"
    for name in ("openvino", "torch"):
        if importlib.util.find_spec(name):
            return name
    raise ServiceError("neither openvino nor torch is installed; install likeness[extract]")


@dataclass(frozen=True)
class Machine:
    """Where and how a network runs.

    Args:
        cache: this machine's folder for converted networks and copied weights.
        threads: CPU threads that a network may use.
        shared_cache: URI of a folder of converted networks that all machines share; empty for none.
        device: the CUDA device that the scheduler assigned, as `cuda:1`; empty for any.
        precision: as `extract.precision`.
    """

    cache: str
    threads: int
    shared_cache: str = ""
    device: str = ""
    precision: str = "auto"


def local_machine(settings: Settings, threads: int) -> Machine:
    """This machine, by the settings of a root, with so many threads for each network."""
    extract = settings.extract
    return Machine(extract.cache, threads, shared_cache(settings.root), precision=extract.precision)


def shared_cache(root: str) -> str:
    """URI of a root's converted networks for other machines; empty for a local root, which only this machine reads."""
    root = uris.canonical(root)
    return "" if uris.scheme(root) == "file" else uris.join(root, "models", "converted")


def open_runtime(space: Space, name: str, machine: Machine) -> Runtime:
    """Loads the network of a space in a runtime: `auto`, `openvino` or `torch`."""
    if choose_runtime(name) == "openvino":
        from likeness.models.runtimes.openvino_cpu import OpenVinoRuntime

        return OpenVinoRuntime(space, machine.cache, machine.threads, machine.shared_cache, machine.precision)
    from likeness.models.runtimes.torch_any import TorchRuntime

    return TorchRuntime(space, machine.cache, machine.threads, machine.device, machine.precision)


def prepare_runtime(space: Space, name: str, machine: Machine) -> None:
    """Converts a network once for all workers, and uploads it to the shared cache."""
    if choose_runtime(name) == "openvino":
        from likeness.models.runtimes import openvino_cpu

        path = openvino_cpu.convert(space, machine.cache, machine.shared_cache)
        if machine.shared_cache:
            openvino_cpu.upload(path, machine.shared_cache)
