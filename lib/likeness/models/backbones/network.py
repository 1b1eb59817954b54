"""Networks of backbones: stages up to a layer, pooling, heads; pixels in, vectors out.   [torch]"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from likeness.images.image import Preprocessing
from likeness.models.backbones.heads import Activation, Head
from likeness.models.backbones.spec import Backbone, PooledLayer, Stage
from likeness.models.backbones.weights import load_into

_EPS = 1e-6


class Dense(torch.nn.Module):
    """A fully connected layer over maps of `side` x `side`; over larger maps it is a convolution, and gives a map.

    Both compute the same product (Sermanet et al. 2013, OverFeat; Simonyan and Zisserman 2014, section 3.2).
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
    """Local response normalisation across channels, always in float32: squares overflow in float16."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(n, c, h, w) to the same."""
        return super().forward(maps.float())


class RgbToBgr(torch.nn.Module):
    """Reverses the channels from RGB to BGR, the order of Caffe's networks."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) to the same."""
        return images.flip(1)


class Lambda(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Calls the function."""
        return self.function(maps)


class MLP(torch.nn.Module):
    """A head as a network, a multilayer perceptron: float32 (n, inputs) to (n, outputs)."""

    def __init__(self, head: Head, dropout: float = 0.0) -> None:
        super().__init__()
        self.unit, widths = head.unit, (head.inputs, *head.hidden)
        pieces = 2 if head.activation == "maxout" else 1
        hidden = [torch.nn.Linear(inputs, pieces * outputs) for inputs, outputs in itertools.pairwise(widths)]
        self.linears = torch.nn.ModuleList([*hidden, torch.nn.Linear(widths[-1], head.outputs)])
        self.activation, self.dropout = _ACTIVATIONS[head.activation], dropout

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Runs the layers, with dropout while training."""
        for number, linear in enumerate(self.linears):
            if number:
                values = F.dropout(self.activation(values), self.dropout, self.training)
            values = linear(values)
        return F.normalize(values) if self.unit else values


def _maxout(values: torch.Tensor) -> torch.Tensor:
    """The maximum of two pieces (Goodfellow et al. 2013)."""
    return values.view(len(values), 2, -1).amax(1)


_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "elu": F.elu,
    "leaky": F.leaky_relu,
    "maxout": _maxout,
}


class HeadStage(torch.nn.Module):
    """A head on a layer, as the last stage of a trained network. Its weights are named `top` in model files."""

    def __init__(self, part: PooledLayer, head: Head, dropout: float = 0.0) -> None:
        super().__init__()
        self.part, self.top = part, MLP(head, dropout)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pools the maps of the layer, (n, c, h, w), and runs the head; returns (n, outputs, 1, 1)."""
        outputs: torch.Tensor = self.top(pool_maps(maps, self.part))
        return outputs[:, :, None, None]


class FeatureNetwork(torch.nn.Module):
    """Stages of a backbone that end at the last layer of interest.

    Normalised photos, float32 (n, 3, side, side), in; the concatenated vectors of the layers, float32 (n, dim), out.
    """

    def __init__(self, stages: Sequence[Stage], parts: Iterable[PooledLayer]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        names = [name for name, _ in stages]
        last = max(names.index(part.layer) for part in self.parts)
        self.stages = torch.nn.ModuleDict(dict(stages[: last + 1]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Runs the stages once, and pools the maps of each layer."""
        vectors: dict[PooledLayer, torch.Tensor] = {}
        for name, stage in self.stages.items():
            images = stage(images)
            vectors |= {part: pool_maps(images, part) for part in self.parts if part.layer == name}
        if len(vectors) == 1:
            return next(iter(vectors.values()))
        return torch.cat([vectors[part] for part in self.parts], 1)


class FeatureStage(FeatureNetwork):
    """A FeatureNetwork as one stage."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, side, side) to (n, dim, 1, 1)."""
        return super().forward(images)[:, :, None, None]


class NormalisePixels(torch.nn.Module):
    """Normalises pixels channel by channel: uint8 or float (n, h, w, 3) to float32 (n, 3, h, w)."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
        self.gain = torch.nn.Buffer(1 / (preprocessing.scale * std), persistent=False)
        self.offset = torch.nn.Buffer(-mean / std, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Permutes before it normalises: in the other order OpenVINO takes ten times as long."""
        return pixels.permute(0, 3, 1, 2).float() * self.gain + self.offset


def load_stages(spec: Backbone, path: Path | None) -> list[Stage]:
    """Builds the stages of a backbone in evaluation mode with the weights of a file; without a file, on `meta`.

    Raises:
        UsageError: the file does not fit this network.
    """
    with torch.device("meta"):  # no time is spent on initial weights
        network, stages = spec.network()
    if path:
        load_into(network, path)
    return _not_in_place([(name, stage.eval()) for name, stage in stages])


def random_stages(spec: Backbone) -> list[Stage]:
    """Builds the stages of a backbone with random weights."""
    return _not_in_place(spec.network()[1])


def _not_in_place(stages: Sequence[Stage]) -> list[Stage]:
    """Turns off in-place operations, which would overwrite the maps of the layer before."""
    for module in itertools.chain.from_iterable(stage.modules() for _, stage in stages):
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return list(stages)


def pool_maps(maps: torch.Tensor, part: PooledLayer) -> torch.Tensor:
    """Pools and normalises a layer's maps, (n, c, h, w), to vectors (n, dim)."""
    vectors = _POOLINGS[part.pooling](maps)
    if part.norm == "root":
        vectors = vectors.sign() * vectors.abs().sqrt()
    return F.normalize(vectors) if part.norm else vectors


def _gem(maps: torch.Tensor) -> torch.Tensor:
    """Generalised mean, p = 3 (Radenovic et al. 2018)."""
    return maps.clamp(min=_EPS).pow(3).mean((2, 3)).pow(1 / 3)


def _gram(maps: torch.Tensor) -> torch.Tensor:
    """Gram matrix of the channels, its upper triangle, mean over positions (Gatys et al. 2015)."""
    flat = maps.flatten(2)
    products = flat @ flat.transpose(1, 2) / flat.shape[2]
    indices = torch.tensor(_upper_triangle(int(maps.shape[1])), device=maps.device)
    return products.flatten(1)[:, indices]


@functools.cache
def _upper_triangle(side: int) -> list[int]:
    """Flat indices of the upper triangle of a square matrix; OpenVINO has no torch.triu_indices."""
    return [row * side + column for row in range(side) for column in range(row, side)]


_POOLINGS = {
    "": lambda maps: maps.flatten(1),
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
    "gem": _gem,
    "gram": _gram,
}
