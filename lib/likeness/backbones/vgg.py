"""VGG (Simonyan and Zisserman 2014): the six columns of the paper's table 1; A, B, D and E as torchvision has them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from likeness.backbones.alexnet import FC, fully_connected
from likeness.backbones.classes import imagenet
from likeness.backbones.spec import Backbone, Layer, Published
from likeness.backbones.weights import only_a_file, torchvision_file
from likeness.images import Preprocessing

if TYPE_CHECKING:
    import torch

_CHANNELS, _SIDE = (64, 128, 256, 512, 512), 224
_KERNELS: dict[str, Sequence[Sequence[int]]] = {
    "vgg11": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "vgg13": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "vgg16_1x1": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "vgg16": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "vgg19": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
"""Sides of the kernels of each block's convolutions, side by side in the paper."""


def _layers(kernels: Sequence[Sequence[int]], normalised: bool) -> dict[str, Layer]:
    layers, side = {}, _SIDE
    for block, (channels, sides) in enumerate(zip(_CHANNELS, kernels, strict=True), 1):
        for number, kernel in enumerate(sides, 1):
            doc = f"convolution {number} of block {block}, {kernel} x {kernel}, after its ReLU"
            layers[f"conv{block}_{number}"] = Layer((channels, side, side), doc)
        if normalised and block == 1:
            layers["norm1"] = Layer((channels, side, side), "the same, normalised over neighbouring channels")
        side //= 2
        layers[f"pool{block}"] = Layer((channels, side, side), f"maximum pooling of block {block}")
    return layers | FC


def _stages(
    features: Any, linears: Sequence[Any], kernels: Sequence[Sequence[int]], normalised: bool
) -> "list[tuple[str, torch.nn.Module]]":
    """The layers of torchvision's `features`, convolution and ReLU together, and the rest."""
    stages, place = [], 0
    for block, sides in enumerate(kernels, 1):
        for number in range(1, len(sides) + 1):
            stages.append((f"conv{block}_{number}", features[place : place + 2]))
            place += 2
        if normalised and block == 1:
            stages.append(("norm1", features[place]))
            place += 1
        stages.append((f"pool{block}", features[place]))
        place += 1
    return [*stages, *fully_connected(linears, 7)]


def _torchvision(name: str) -> "tuple[torch.nn.Module, Sequence[tuple[str, torch.nn.Module]]]":
    import torchvision

    net: Any = getattr(torchvision.models, name)(weights=None, init_weights=False)
    linears = [net.classifier[number] for number in (0, 3, 6)]
    return net, _stages(net.features, linears, _KERNELS[name], normalised=False)


def _own(name: str, normalised: bool) -> "tuple[torch.nn.Module, Sequence[tuple[str, torch.nn.Module]]]":
    """A column that torchvision lacks; its weights have the names that torchvision would give them."""
    from torch.nn import Conv2d, Linear, MaxPool2d, Module, ModuleDict, ReLU, Sequential

    from likeness.backbones.network import ResponseNorm

    features, before = list[Module](), 3
    kernels = _KERNELS[name.removesuffix("_lrn")]
    for block, (channels, sides) in enumerate(zip(_CHANNELS, kernels, strict=True)):
        for side in sides:
            features += [Conv2d(before, channels, side, padding=side // 2), ReLU()]
            before = channels
        if normalised and block == 0:
            features.append(ResponseNorm(5, 1e-4, 0.75, 2.0))
        features.append(MaxPool2d(2, 2))
    classifier = {"0": Linear(25088, 4096), "3": Linear(4096, 4096), "6": Linear(4096, 1000)}
    net = ModuleDict({"features": Sequential(*features), "classifier": ModuleDict(classifier)})
    return net, _stages(net["features"], list(classifier.values()), kernels, normalised)


def _backbone(
    name: str,
    column: str,
    source: str,
    weights: Callable[[], Any],
    published: Published,
    network: "Callable[[], tuple[torch.nn.Module, Sequence[tuple[str, torch.nn.Module]]]]",
) -> Backbone:
    normalised = name.endswith("_lrn")
    return Backbone(
        name=name,
        doc=f"VGG, column {column} of the paper",
        licence="BSD-3-Clause (torchvision)",
        source=source,
        preprocessing=Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        layers=_layers(_KERNELS[name.removesuffix("_lrn")], normalised),
        weights=weights,
        network=network,
        classes=imagenet,
        published=published,
    )


_FILES = {
    "vgg11": ("A", "vgg11-8a719046.pth", Published(69.02, 88.63, "torchvision")),
    "vgg13": ("B", "vgg13-19584684.pth", Published(69.93, 89.25, "torchvision")),
    "vgg16": ("D", "vgg16-397923af.pth", Published(71.59, 90.38, "torchvision")),
    "vgg19": ("E", "vgg19-dcbb9e9d.pth", Published(72.38, 90.88, "torchvision")),
}
_OWN = {
    "vgg11_lrn": ("A-LRN", Published(70.3, 89.5, "the paper, table 3, one scale")),
    "vgg16_1x1": ("C", Published(71.9, 90.6, "the paper, table 3, one scale")),
}

BACKBONES = (
    *(
        _backbone(
            name,
            column,
            "torchvision",
            lambda file=file: torchvision_file(file),  # type: ignore[misc]
            published,
            lambda name=name: _torchvision(name),  # type: ignore[misc]
        )
        for name, (column, file, published) in _FILES.items()
    ),
    *(
        _backbone(
            name,
            column,
            "a file",
            lambda name=name: only_a_file(name, "torchvision has none of this column"),  # type: ignore[misc]
            published,
            lambda name=name: _own(name, name.endswith("_lrn")),  # type: ignore[misc]
        )
        for name, (column, published) in _OWN.items()
    ),
)
