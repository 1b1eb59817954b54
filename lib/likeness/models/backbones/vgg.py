"""VGG (Simonyan and Zisserman 2014): the six columns of the paper's table 1; A, B, D and E as torchvision has them."""

import functools
from collections.abc import Sequence
from typing import Any

from likeness.models.backbones.alexnet import FC, torchvision_stages
from likeness.models.backbones.class_names import imagenet_classes
from likeness.models.backbones.providers import IMAGENET, TORCHVISION, torchvision_backbone
from likeness.models.backbones.spec import Backbone, Built, Layer, Published
from likeness.models.backbones.weights import weights_not_published

_CHANNELS, _SIDE, _LRN = (64, 128, 256, 512, 512), 224, "_lrn"
_KERNELS: dict[str, Sequence[Sequence[int]]] = {
    "vgg11": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "vgg13": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "vgg16_1x1": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "vgg16": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "vgg19": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
"""Kernel sizes of each block's convolutions, one network a column of the paper's table."""


def _kernels(name: str) -> Sequence[Sequence[int]]:
    return _KERNELS[name.removesuffix(_LRN)]


def _layers(name: str) -> dict[str, Layer]:
    layers, side = {}, _SIDE
    for block, (channels, sides) in enumerate(zip(_CHANNELS, _kernels(name), strict=True), 1):
        for number, kernel in enumerate(sides, 1):
            doc = f"convolution {number} of block {block}, {kernel} x {kernel}, after its ReLU"
            layers[f"conv{block}_{number}"] = Layer((channels, side, side), doc)
        if name.endswith(_LRN) and block == 1:
            layers["norm1"] = Layer((channels, side, side), "the same, normalised over neighbouring channels")
        side //= 2
        layers[f"pool{block}"] = Layer((channels, side, side), f"maximum pooling of block {block}")
    return layers | FC


def _torchvision(name: str) -> Built:
    import torchvision

    net: Any = getattr(torchvision.models, name)(weights=None, init_weights=False)
    linears = [net.classifier[number] for number in (0, 3, 6)]
    return net, torchvision_stages(_layers(name), net.features, linears, 7)


def _own(name: str) -> Built:
    """Builds a column that torchvision lacks, with weights named in torchvision's way."""
    from torch.nn import Conv2d, Linear, MaxPool2d, Module, ModuleDict, ReLU, Sequential

    from likeness.models.backbones.network import ResponseNorm

    features, before = list[Module](), 3
    for block, (channels, sides) in enumerate(zip(_CHANNELS, _kernels(name), strict=True), 1):
        for side in sides:
            features += [Conv2d(before, channels, side, padding=side // 2), ReLU()]
            before = channels
        if name.endswith(_LRN) and block == 1:
            features.append(ResponseNorm(5, 1e-4, 0.75, 2.0))
        features.append(MaxPool2d(2, 2))
    classifier = {"0": Linear(25088, 4096), "3": Linear(4096, 4096), "6": Linear(4096, 1000)}
    net = ModuleDict({"features": Sequential(*features), "classifier": ModuleDict(classifier)})
    return net, torchvision_stages(_layers(name), net["features"], list(classifier.values()), 7)


_TORCHVISION = {
    "vgg11": ("A", "vgg11-8a719046.pth", (69.02, 88.63)),
    "vgg13": ("B", "vgg13-19584684.pth", (69.93, 89.25)),
    "vgg16": ("D", "vgg16-397923af.pth", (71.59, 90.38)),
    "vgg19": ("E", "vgg19-dcbb9e9d.pth", (72.38, 90.88)),
}
_OWN = {"vgg11_lrn": ("A-LRN", 70.3, 89.5), "vgg16_1x1": ("C", 71.9, 90.6)}

BACKBONES = (
    *(
        torchvision_backbone(name, f"VGG, column {column} of the paper", file, _layers(name), _torchvision, published)
        for name, (column, file, published) in _TORCHVISION.items()
    ),
    *(
        Backbone(
            name=name,
            doc=f"VGG, column {column} of the paper",
            licence=TORCHVISION,
            source="a file",
            preprocessing=IMAGENET,
            layers=_layers(name),
            weights=functools.partial(weights_not_published, name, "torchvision has none of this column"),
            network=functools.partial(_own, name),
            classes=imagenet_classes,
            published=Published(top1, top5, "the paper, table 3, one scale"),
        )
        for name, (column, top1, top5) in _OWN.items()
    ),
)
