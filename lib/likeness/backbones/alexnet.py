"""AlexNet as torchvision has it (Krizhevsky 2014, "One weird trick"), 224 px."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeness.backbones import Backbone, Layer
from likeness.backbones.weights import load_into, torchvision_file
from likeness.images import Preprocessing

if TYPE_CHECKING:
    import torch

_CUT = {"fc6_linear": 2, "fc6": 3}  # how much of torchvision's `classifier` belongs to the layer


def _build(path: Path, layer: str) -> "torch.nn.Module":
    import torch
    import torchvision

    net: Any = load_into(torchvision.models.alexnet(weights=None), path)
    return torch.nn.Sequential(net.features, net.avgpool, torch.nn.Flatten(), *net.classifier[: _CUT[layer]]).eval()


BACKBONES = (
    Backbone(
        name="alexnet",
        doc="AlexNet, torchvision's IMAGENET1K_V1",
        licence="BSD-3-Clause (torchvision)",
        preprocessing=Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        layers={
            "fc6": Layer(4096, "first fully connected layer after its ReLU (Caffe's blob fc6)"),
            "fc6_linear": Layer(4096, "first fully connected layer before its ReLU"),
        },
        weights=lambda: torchvision_file("alexnet-owt-7be5be79.pth"),
        build=_build,
    ),
)
