"""Backbone specifications: weights, preprocessing, stages and named layers. No torch before a network is built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from likeness.images.image import Preprocessing

if TYPE_CHECKING:
    import torch

Stage: TypeAlias = "tuple[str, torch.nn.Module]"
"""A part of a network, and its name."""
Built: TypeAlias = "tuple[torch.nn.Module, Sequence[Stage]]"
"""A network whose modules are named as in its weights file, and its stages in order."""
POOLINGS = ("mean", "max", "gem", "gram")
"""How maps become a vector: mean, maximum or generalised mean over positions, or the Gram matrix of channels."""
NORMS = ("l2", "root")
"""Normalisation of the vector: to length 1; or the signed square root of each value, then to length 1."""
_DEFAULT_LAYERS = ("fc6", "pool", "avgpool", "f6", "blocks", "logits")
"""Layers for search, the preferred one first."""


@dataclass(frozen=True)
class Layer:
    """A named layer: the shape of its output for one photo, (dim,) or (channels, height, width).

    A `dense` layer gives a vector for photos of the backbone's own size, and a map of vectors for larger ones.
    """

    shape: tuple[int, ...]
    doc: str
    dense: bool = False


def layer_table(text: str) -> dict[str, Layer]:
    """Layers by name, from a line each: its name, its shape as `channels x height x width` without spaces, its doc."""
    rows = (line.split(maxsplit=2) for line in text.strip().splitlines())
    return {name: Layer(tuple(map(int, shape.split("x"))), doc) for name, shape, doc in rows}


@dataclass(frozen=True)
class PooledLayer:
    """A layer, and the pooling and normalisation that make its maps a vector."""

    layer: str
    pooling: str = ""
    norm: str = ""


@dataclass(frozen=True)
class Published:
    """Published top-1 and top-5 accuracy on ImageNet's validation photos, in percent, and the source."""

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True)
class Backbone:
    """Specification of one backbone.

    `weights` finds the default weights file, and is None for a network without weights; `source` says where they come
    from. The stages that `network()` builds take normalised photos, float32 (n, 3, side, side), and give maps
    (n, c, h, w). `layers` are the stages that a space can name; those with `classes` have the layer `logits`.
    """

    name: str
    doc: str
    licence: str
    source: str
    preprocessing: Preprocessing
    layers: Mapping[str, Layer]
    weights: Callable[[], Path] | None
    network: Callable[[], Built]
    classes: Callable[[], Sequence[str]] | None = None
    published: Published | None = field(default=None, compare=False)

    @property
    def default_layer(self) -> str:
        """The preferred layer for search."""
        return next(name for name in _DEFAULT_LAYERS if name in self.layers)
