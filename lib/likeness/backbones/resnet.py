"""ResNet (He et al. 2015) with bottlenecks, as torchvision has it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from likeness.backbones.classes import imagenet
from likeness.backbones.spec import Backbone, Layer, Published
from likeness.backbones.weights import torchvision_file
from likeness.images import Preprocessing

if TYPE_CHECKING:
    import torch


def _network(name: str) -> "tuple[torch.nn.Module, Sequence[tuple[str, torch.nn.Module]]]":
    import torchvision

    from likeness.backbones.network import Dense

    net: Any = getattr(torchvision.models, name)(weights=None)
    blocks = [(f"layer{number}", getattr(net, f"layer{number}")) for number in range(1, 5)]
    first = ("conv1", _sequential(net.conv1, net.bn1, net.relu))
    return net, [first, ("pool1", net.maxpool), *blocks, ("avgpool", net.avgpool), ("logits", Dense(net.fc))]


def _sequential(*modules: Any) -> "torch.nn.Module":
    from torch.nn import Sequential

    return Sequential(*modules)


_LAYERS = {
    "conv1": Layer((64, 112, 112), "first convolution after its ReLU"),
    "pool1": Layer((64, 56, 56), "maximum pooling"),
    "layer1": Layer((256, 56, 56), "first stage of blocks (conv2_x)"),
    "layer2": Layer((512, 28, 28), "second stage of blocks (conv3_x)"),
    "layer3": Layer((1024, 14, 14), "third stage of blocks (conv4_x)"),
    "layer4": Layer((2048, 7, 7), "fourth stage of blocks (conv5_x)"),
    "avgpool": Layer((2048,), "the last map, mean over its positions"),
    "logits": Layer((1000,), "class scores"),
}
_FILES = {
    "resnet50": ("resnet50-0676ba61.pth", Published(76.13, 92.86, "torchvision")),
    "resnet101": ("resnet101-63fe2227.pth", Published(77.37, 93.55, "torchvision")),
    "resnet152": ("resnet152-394f9c45.pth", Published(78.31, 94.05, "torchvision")),
}

BACKBONES = tuple(
    Backbone(
        name=name,
        doc=f"ResNet-{name.removeprefix('resnet')}, torchvision's IMAGENET1K_V1",
        licence="BSD-3-Clause (torchvision)",
        source="torchvision",
        preprocessing=Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        layers=_LAYERS,
        weights=lambda file=file: torchvision_file(file),  # type: ignore[misc]
        network=lambda name=name: _network(name),  # type: ignore[misc]
        classes=imagenet,
        published=published,
    )
    for name, (file, published) in _FILES.items()
)
