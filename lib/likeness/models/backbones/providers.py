"""Providers of weights: what the backbones of torchvision, and those of Caffe's model zoo, have in common."""

import functools
from collections.abc import Callable, Mapping

from likeness.images.image import Preprocessing
from likeness.models.backbones.class_names import imagenet_classes
from likeness.models.backbones.spec import Backbone, Built, Layer, Published
from likeness.models.backbones.weights import torchvision_file

TORCHVISION = "BSD-3-Clause (torchvision)"
"""The licence of torchvision's weights."""
IMAGENET = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Torchvision's preprocessing for photos of 224 pixels."""


def torchvision_backbone(
    name: str,
    doc: str,
    file: str,
    layers: Mapping[str, Layer],
    network: Callable[[str], Built],
    published: tuple[float, float],
    preprocessing: Preprocessing = IMAGENET,
) -> Backbone:
    """Specifies a backbone with torchvision's IMAGENET1K_V1 weights in `file`.

    `network` builds it by its name; `published` is its top-1 and top-5 accuracy.
    """
    return Backbone(
        name=name,
        doc=f"{doc}, torchvision's IMAGENET1K_V1",
        licence=TORCHVISION,
        source="torchvision",
        preprocessing=preprocessing,
        layers=layers,
        weights=functools.partial(torchvision_file, file),
        network=functools.partial(network, name),
        classes=imagenet_classes,
        published=Published(*published, "torchvision"),
    )


def caffe_preprocessing(side: int) -> Preprocessing:
    """Caffe's preprocessing: photos squashed to 256 x 256, ImageNet's mean subtracted, no division."""
    mean = (122.68, 116.67, 104.01)
    return Preprocessing(256, side, mean, (1.0, 1.0, 1.0), scale=1.0, interpolation="bicubic", shape="squash")
