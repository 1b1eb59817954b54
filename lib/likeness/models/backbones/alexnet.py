"""AlexNet: torchvision's (Krizhevsky 2014, "One weird trick"), and Caffe's of the original of 2012."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from likeness.models.backbones.class_names import imagenet_classes
from likeness.models.backbones.providers import caffe_preprocessing, torchvision_backbone
from likeness.models.backbones.spec import Backbone, Built, Layer, Published, Stage, layer_table
from likeness.models.backbones.weights import weights_not_published

FC = {
    "fc6_linear": Layer((4096,), "first fully connected layer before its ReLU", dense=True),
    "fc6": Layer((4096,), "first fully connected layer after its ReLU (Caffe's blob fc6)", dense=True),
    "fc7_linear": Layer((4096,), "second fully connected layer before its ReLU", dense=True),
    "fc7": Layer((4096,), "second fully connected layer after its ReLU", dense=True),
    "logits": Layer((1000,), "class scores (fc8)", dense=True),
}
"""The fully connected layers of AlexNet and VGG."""


def torchvision_stages(layers: Iterable[str], features: Any, linears: Sequence[Any], side: int) -> list[Stage]:
    """The stages of torchvision's `features`, each convolution with its ReLU, and those of `fully_connected`."""
    maps = [name for name in layers if name not in FC]
    ends = itertools.accumulate((2 if name.startswith("conv") else 1 for name in maps), initial=0)
    parts = [features[start:end] for start, end in itertools.pairwise(ends)]
    return [*zip(maps, parts, strict=True), *fully_connected(linears, side)]


def fully_connected(linears: Sequence[Any], side: int) -> list[Stage]:
    """The stages of `FC`: three fully connected layers over maps of `side` x `side`."""
    from torch.nn import ReLU

    from likeness.models.backbones.network import Dense

    fc6, fc7, fc8 = linears
    first, second = ("fc6_linear", Dense(fc6, side)), ("fc7_linear", Dense(fc7))
    return [first, ("fc6", ReLU()), second, ("fc7", ReLU()), ("logits", Dense(fc8))]


def _torchvision(name: str) -> Built:
    import torchvision

    net: Any = getattr(torchvision.models, name)(weights=None)
    linears = [net.classifier[number] for number in (1, 4, 6)]
    return net, torchvision_stages(_TORCHVISION, net.features, linears, 6)


def _caffe() -> Built:
    from torch.nn import Conv2d, Linear, MaxPool2d, ModuleDict, ReLU, Sequential

    from likeness.models.backbones.network import ResponseNorm, RgbToBgr

    convolutions = {
        "conv1": Conv2d(3, 96, 11, 4),
        "conv2": Conv2d(96, 256, 5, 1, 2, groups=2),
        "conv3": Conv2d(256, 384, 3, 1, 1),
        "conv4": Conv2d(384, 384, 3, 1, 1, groups=2),
        "conv5": Conv2d(384, 256, 3, 1, 1, groups=2),
    }
    linears = {"fc6": Linear(9216, 4096), "fc7": Linear(4096, 4096), "fc8": Linear(4096, 1000)}
    maps: list[Stage] = [("bgr", RgbToBgr())]
    for name, convolution in convolutions.items():
        maps.append((name, Sequential(convolution, ReLU())))
        if name in ("conv1", "conv2"):
            maps.append((f"norm{name[-1]}", ResponseNorm(5, 1e-4, 0.75)))
        if name in ("conv1", "conv2", "conv5"):
            maps.append((f"pool{name[-1]}", MaxPool2d(3, 2)))
    return ModuleDict({**convolutions, **linears}), [*maps, *fully_connected(list(linears.values()), 6)]


_MAPS = """
conv1 {}x55x55 first convolution after its ReLU
pool1 {}x27x27 first maximum pooling
conv2 {}x27x27 second convolution after its ReLU
pool2 {}x13x13 second maximum pooling
conv3 {}x13x13 third convolution after its ReLU
conv4 {}x13x13 fourth convolution after its ReLU
conv5 {}x13x13 fifth convolution after its ReLU
pool5 {}x6x6 last maximum pooling
"""


def _layers(*channels: int, normalised: bool) -> dict[str, Layer]:
    """Five convolutional layers, the first two and the last with pooling, by the channels of these eight outputs."""
    layers = {}
    for name, layer in layer_table(_MAPS.format(*channels)).items():
        layers[name] = layer
        if normalised and name in ("conv1", "conv2"):
            layers[f"norm{name[-1]}"] = Layer(layer.shape, "the same, normalised over neighbouring channels")
    return layers | FC


_TORCHVISION = _layers(64, 64, 192, 192, 384, 256, 256, 256, normalised=False)

BACKBONES = (
    torchvision_backbone("alexnet", "AlexNet", "alexnet-owt-7be5be79.pth", _TORCHVISION, _torchvision, (56.52, 79.07)),
    Backbone(
        name="alexnet_caffe",
        doc="AlexNet of 2012 as Caffe's bvlc_alexnet: two groups, response normalisation, 227 px, BGR",
        licence="unrestricted use (BAIR)",
        source="a file",
        preprocessing=caffe_preprocessing(227),
        layers=_layers(96, 96, 256, 256, 384, 384, 256, 256, normalised=True),
        weights=lambda: weights_not_published("alexnet_caffe", "`likeness weights import bvlc_alexnet.npy` makes one"),
        network=_caffe,
        classes=imagenet_classes,
        published=Published(57.1, 80.2, "Caffe's model zoo, bvlc_alexnet"),
    ),
)
