"""Runtimes: a feature space to a function uint8 (n, crop, crop, 3) -> float32 (n, dim).   [torch, openvino]"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from likeness.backbones import Space
from likeness.errors import ServiceError


class Runtime(Protocol):
    """A loaded network; `name` says what runs it."""

    name: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, crop, crop, 3) RGB to float32 (n, dim)."""
        ...


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


def open_runtime(space: Space, wanted: str, cache: str, threads: int) -> Runtime:
    """Loads a network.

    Args:
        space: what to run.
        wanted: auto, openvino or torch.
        cache: folder for converted networks.
        threads: CPU threads the network may use.
    """
    openers: dict[str, Callable[[], Runtime]] = {
        "openvino": lambda: _openvino(space, cache, threads),
        "torch": lambda: _torch(space, threads),
    }
    return openers[choose(wanted)]()


def prepare(space: Space, wanted: str, cache: str) -> None:
    """Does once what every worker would otherwise do: converts the network into the cache."""
    if choose(wanted) == "openvino":
        from likeness.runtimes import openvino_cpu

        openvino_cpu.convert(space, cache)


def _openvino(space: Space, cache: str, threads: int) -> Runtime:
    from likeness.runtimes.openvino_cpu import OpenVinoRuntime

    return OpenVinoRuntime(space, cache, threads)


def _torch(space: Space, threads: int) -> Runtime:
    from likeness.runtimes.torch_any import TorchRuntime

    return TorchRuntime(space, threads)
