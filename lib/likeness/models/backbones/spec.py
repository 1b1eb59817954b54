"""What a backbone is: its weights, its preprocessing, its stages and its named layers. No torch before it is built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from likeness.images.image import Preprocessing

if TYPE_CHECKING:
    import torch

    Built = tuple[torch.nn.Module, Sequence[tuple[str, torch.nn.Module]]]
    """A network as its weights name it, and its stages in order, each with a name."""

POOLINGS = ("mean", "max", "gem", "gram")
"""How a map becomes a vector: its mean or maximum over positions, the generalised mean, or products of channels."""
NORMS = ("l2", "root")
"""What is done to the vector: length 1; or the signed square root of each value, then length 1."""
_MAIN = ("fc6", "pool", "avgpool", "f6", "blocks", "logits")
"""Layers that a search takes first, where a backbone has several."""


@dataclass(frozen=True)
class Layer:
    """A named layer: the shape of what it gives for one photo, (dim,) or (channels, height, width).

    A `dense` layer is a vector of a photo of the usual size, and a map of vectors of a larger one.
    """

    shape: tuple[int, ...]
    doc: str
    dense: bool = False


@dataclass(frozen=True)
class Part:
    """A layer, and how its maps become a vector."""

    layer: str
    pooling: str = ""
    norm: str = ""


@dataclass(frozen=True)
class Published:
    """Percent of ImageNet's validation photos whose class is the first, or among the first five, and who says so."""

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True)
class Backbone:
    """One network.

    `weights` finds the network's own weights file, and is None for a network without any; `source` says where it
    comes from. The stages that `network()` gives take normalised photos, float32 (n, 3, side, side), in, and give
    maps (n, c, h, w). `layers` are the stages that may be asked for; the class scores, where there are `classes`,
    are the layer `logits`.
    """

    name: str
    doc: str
    licence: str
    source: str
    preprocessing: Preprocessing
    layers: Mapping[str, Layer]
    weights: Callable[[], Path] | None
    network: "Callable[[], Built]"
    classes: Callable[[], Sequence[str]] | None = None
    published: Published | None = field(default=None, compare=False)

    @property
    def main(self) -> str:
        """The layer that a search takes first."""
        return next(name for name in _MAIN if name in self.layers)
