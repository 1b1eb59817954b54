"""Runtimes: a feature space to a function uint8 (n, crop, crop, 3) -> float32 (n, dim).   [torch, openvino]"""

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

Otherwise = Callable[[bytes], "Future[np.ndarray]"]
"""Begins to decode a photo in a process of its own; the future gives uint8 (side, side, 3), or raises BadImage."""
Pictures = Callable[[Sequence[bytes]], tuple[Any, dict[int, BadImage]]]
"""Photos to what their runtime takes, (m, side, side, 3), and by their numbers why others have no pixels."""


class Runtime(Protocol):
    """A loaded network.

    `name` says what runs it. `at_once` passes are worth beginning before the first has ended; `busy_s` are the seconds
    that a GPU has worked for it so far, 0 where there is none.
    """

    name: str
    at_once: int

    @property
    def busy_s(self) -> float:
        """Seconds of a GPU so far."""
        ...

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, crop, crop, 3) RGB, or what `decoder` gives, to float32 (n, dim)."""
        ...


@runtime_checkable
class Decoding(Runtime, Protocol):
    """A runtime that also decodes."""

    def decoder(self, limits: Limits, otherwise: Otherwise) -> Pictures:
        """Decodes photos where the network runs, and `otherwise` those that cannot be decoded there."""
        ...


def decoding(runtime: Runtime) -> Decoding:
    """The same runtime.

    Raises:
        ServiceError: it decodes no photos.
    """
    if not isinstance(runtime, Decoding):
        told = "decodes no photos; set extract.runtime to torch, or extract.decode to processes"
        raise ServiceError(f"extract.decode = 'network': {runtime.name} {told}")
    return runtime


def choose(wanted: str) -> str:
    """`auto` to the runtime this machine is best served with.

    Raises:
        ServiceError: none is installed, or not the wanted one.
    """
    if wanted != "auto":
        if not importlib.util.find_spec(wanted):
            raise ServiceError(f"extract.runtime = {wanted!r}, which is not installed; install likeness[extract]")
        return wanted
    # asking for the driver's device costs nothing, importing torch costs seconds
    if Path("/dev/nvidia0").exists() and importlib.util.find_spec("torch"):
        return "torch"
    for name in ("openvino", "torch"):
        if importlib.util.find_spec(name):
            return name
    raise ServiceError("neither openvino nor torch is installed; install likeness[extract]")


@dataclass(frozen=True)
class Machine:
    """Where a network runs.

    `cache` is this machine's folder for converted networks and copied weights, `shelf` the URI of a folder that
    all machines share (empty for none), `threads` the CPU threads a network may use, `device` a CUDA device that the
    scheduler assigned, as `cuda:1` (empty for any), and `precision` what it computes in, as `extract.precision` has it.
    """

    cache: str
    threads: int
    shelf: str = ""
    device: str = ""
    precision: str = "auto"


def machine(settings: Settings, threads: int) -> Machine:
    """A machine that works on a root, with so many threads a network."""
    extract = settings.extract
    return Machine(extract.cache, threads, shelf(settings.root), precision=extract.precision)


def shelf(root: str) -> str:
    """Where a root keeps converted networks for other machines; empty for a local root, whose machine is this one."""
    root = uris.canonical(root)
    return "" if uris.scheme(root) == "file" else uris.join(root, "models", "converted")


def open_runtime(space: Space, wanted: str, machine: Machine) -> Runtime:
    """Loads a network; `wanted` is auto, openvino or torch."""
    openers: dict[str, Callable[[], Runtime]] = {
        "openvino": lambda: _openvino(space, machine),
        "torch": lambda: _torch(space, machine),
    }
    return openers[choose(wanted)]()


def prepare(space: Space, wanted: str, machine: Machine) -> None:
    """Does once what every worker would otherwise do: converts the network, and puts it on the shelf."""
    if choose(wanted) == "openvino":
        from likeness.models.runtimes import openvino_cpu

        path = openvino_cpu.convert(space, machine.cache, machine.shelf)
        if machine.shelf:
            openvino_cpu.offer(path, machine.shelf)


def _openvino(space: Space, machine: Machine) -> Runtime:
    from likeness.models.runtimes.openvino_cpu import OpenVinoRuntime

    return OpenVinoRuntime(space, machine.cache, machine.threads, machine.shelf, machine.precision)


def _torch(space: Space, machine: Machine) -> Runtime:
    from likeness.models.runtimes.torch_any import TorchRuntime

    return TorchRuntime(space, machine.cache, machine.threads, machine.device, machine.precision)
