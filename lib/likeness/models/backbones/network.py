"""A backbone up to some of its layers, as one network: stages in, vectors out.   [torch]"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from likeness.images.image import Preprocessing
from likeness.models.backbones.heads import Activation, Head
from likeness.models.backbones.spec import Backbone, Part
from likeness.models.backbones.weights import load_into

_EPS = 1e-6


class Dense(torch.nn.Module):
    """A fully connected layer over maps of `side` x `side`; a larger map gives a map, as a convolution would.

    Both are the same product (Sermanet et al. 2013, OverFeat; Simonyan and Zisserman 2014, section 3.2).
    """

    def __init__(self, linear: torch.nn.Linear, side: int = 1) -> None:
        super().__init__()
        self.linear, self.side = linear, side

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """float32 (n, c, h, w) to (n, out, h - side + 1, w - side + 1)."""
        if maps.shape[2] == maps.shape[3] == self.side:
            vectors: torch.Tensor = self.linear(maps.flatten(1))
            return vectors[:, :, None, None]
        weight: torch.Tensor = self.linear.weight
        return F.conv2d(maps, weight.view(len(weight), -1, self.side, self.side), self.linear.bias)


class ResponseNorm(torch.nn.LocalResponseNorm):
    """Values divided by what neighbouring channels say; always in float32, for squares leave the range of float16."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) to the same."""
        return super().forward(maps.float())


class Reversed(torch.nn.Module):
    """Red, green and blue to blue, green and red, as Caffe's networks take them."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to the same."""
        return images.flip(1)


class Call(torch.nn.Module):
    """A function as a stage."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Whatever the function does."""
        return self.function(maps)


class Perceptron(torch.nn.Module):
    """Fully connected layers: float32 (n, inputs) to (n, outputs)."""

    def __init__(self, top: Head, dropout: float = 0.0) -> None:
        super().__init__()
        self.unit, widths = top.unit, (top.inputs, *top.hidden)
        pieces = 2 if top.activation == "maxout" else 1
        hidden = [torch.nn.Linear(before, pieces * width) for before, width in itertools.pairwise(widths)]
        self.linears = torch.nn.ModuleList([*hidden, torch.nn.Linear(widths[-1], top.outputs)])
        self.activation, self.dropout = _ACTIVATIONS[top.activation], dropout

    def forward(self, found: torch.Tensor) -> torch.Tensor:
        """Runs them."""
        for number, linear in enumerate(self.linears):
            if number:
                found = F.dropout(self.activation(found), self.dropout, self.training)
            found = linear(found)
        return F.normalize(found) if self.unit else found


def _maxout(found: torch.Tensor) -> torch.Tensor:
    """The larger of two pieces (Goodfellow et al. 2013)."""
    return found.view(len(found), 2, -1).amax(1)


_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "elu": F.elu,
    "leaky": F.leaky_relu,
    "maxout": _maxout,
}


class WithHead(torch.nn.Module):
    """What a recipe puts on a layer, as a stage."""

    def __init__(self, part: Part, top: Head, dropout: float = 0.0) -> None:
        super().__init__()
        self.part, self.top = part, Perceptron(top, dropout)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps of the layer, (n, c, h, w), to (n, outputs, 1, 1)."""
        found: torch.Tensor = self.top(vectors(maps, self.part))
        return found[:, :, None, None]


class Several(torch.nn.Module):
    """Normalised photos, float32 (n, 3, side, side), to the vectors of some layers, float32 (n, dim), side by side.

    All layers come of one pass, which ends at the last of them.
    """

    def __init__(self, stages: Sequence[tuple[str, torch.nn.Module]], parts: Iterable[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        names = [name for name, _ in stages]
        last = max(names.index(part.layer) for part in self.parts)
        self.stages = torch.nn.ModuleDict(dict(stages[: last + 1]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Runs the stages, and takes a vector where a layer is wanted."""
        found: dict[Part, torch.Tensor] = {}
        for name, stage in self.stages.items():
            images = stage(images)
            found |= {part: vectors(images, part) for part in self.parts if part.layer == name}
        return torch.cat([found[part] for part in self.parts], 1) if len(found) > 1 else next(iter(found.values()))


class Features(Several):
    """The same as a stage."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) to (n, dim, 1, 1)."""
        return super().forward(images)[:, :, None, None]


class Planes(torch.nn.Module):
    """Pixels as a network takes them: uint8 or float (n, h, w, 3) to normalised float32 (n, 3, h, w)."""

    def __init__(self, how: Preprocessing) -> None:
        super().__init__()
        mean, std = torch.tensor(how.mean)[:, None, None], torch.tensor(how.std)[:, None, None]
        self.gain = torch.nn.Buffer(1 / (how.scale * std), persistent=False)
        self.offset = torch.nn.Buffer(-mean / std, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalises each channel; apart, for with the channels side by side OpenVINO takes ten times as long."""
        return pixels.permute(0, 3, 1, 2).float() * self.gain + self.offset


class Network(Several):
    """The same of a backbone with the weights of a file."""

    def __init__(self, spec: Backbone, parts: Iterable[Part], path: Path | None) -> None:
        super().__init__(chain(spec, path), parts)


def chain(spec: Backbone, path: Path | None) -> list[tuple[str, torch.nn.Module]]:
    """The stages of a backbone in evaluation mode, with the weights of a file; without one they are on `meta`.

    Raises:
        UsageError: the file is not of this network.
    """
    with torch.device("meta"):  # no time is lost with weights that are read anyway
        whole, stages = spec.network()
    if path:
        load_into(whole, path)
    return _kept_apart([(name, stage.eval()) for name, stage in stages])


def fresh(spec: Backbone) -> list[tuple[str, torch.nn.Module]]:
    """The stages of a backbone with random weights."""
    return _kept_apart(spec.network()[1])


def _kept_apart(stages: Iterable[tuple[str, torch.nn.Module]]) -> list[tuple[str, torch.nn.Module]]:
    """The stages; none works in place, for the layer before may be wanted as well."""
    stages = list(stages)
    for module in itertools.chain.from_iterable(stage.modules() for _, stage in stages):
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return stages


def vectors(maps: torch.Tensor, part: Part) -> torch.Tensor:
    """What a part makes of its layer's maps, (n, c, h, w) to (n, dim)."""
    found = _POOLED[part.pooling](maps)
    if part.norm == "root":
        found = found.sign() * found.abs().sqrt()
    return F.normalize(found) if part.norm else found


def _gem(maps: torch.Tensor) -> torch.Tensor:
    """Generalised mean, p = 3 (Radenovic et al. 2018)."""
    return maps.clamp(min=_EPS).pow(3).mean((2, 3)).pow(1 / 3)


def _gram(maps: torch.Tensor) -> torch.Tensor:
    """Products of channels, the upper triangle, mean over positions (Gatys et al. 2015)."""
    flat = maps.flatten(2)
    products = flat @ flat.transpose(1, 2) / flat.shape[2]
    places = torch.tensor(_triangle(int(maps.shape[1])), device=maps.device)
    return products.flatten(1)[:, places]


@functools.cache
def _triangle(side: int) -> list[int]:
    """Places of the upper triangle of a square, row by row; torch.triu_indices has no equal in OpenVINO."""
    return [row * side + column for row in range(side) for column in range(row, side)]


_POOLED = {
    "": lambda maps: maps.flatten(1),
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
    "gem": _gem,
    "gram": _gram,
}
