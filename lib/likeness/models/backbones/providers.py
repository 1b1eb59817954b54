"""What networks of one publisher have in common: those of torchvision, and those of Caffe's model zoo."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from likeness.images.image import Preprocessing
from likeness.models.backbones.class_names import imagenet
from likeness.models.backbones.spec import Backbone, Layer, Published
from likeness.models.backbones.weights import torchvision_file

if TYPE_CHECKING:
    from likeness.models.backbones.spec import Built

TORCHVISION = "BSD-3-Clause (torchvision)"
"""The licence."""
IMAGENET = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""As torchvision prepares photos of 224 pixels."""


class Network(Protocol):
    """Builds one of a family's networks."""

    def __call__(self, name: str) -> "Built":
        """The network, by the backbone's name."""
        ...


def of_torchvision(
    name: str,
    doc: str,
    file: str,
    layers: Mapping[str, Layer],
    network: Network,
    published: tuple[float, float],
    how: Preprocessing = IMAGENET,
) -> Backbone:
    """A backbone with torchvision's IMAGENET1K_V1 weights, in `file`; `published` are its top-1 and top-5."""
    return Backbone(
        name=name,
        doc=f"{doc}, torchvision's IMAGENET1K_V1",
        licence=TORCHVISION,
        source="torchvision",
        preprocessing=how,
        layers=layers,
        weights=functools.partial(torchvision_file, file),
        network=functools.partial(network, name),
        classes=imagenet,
        published=Published(*published, "torchvision"),
    )


def caffe(side: int) -> Preprocessing:
    """As Caffe's reader prepares photos: squashed to 256 x 256; less the mean of ImageNet, not divided by anything."""
    mean = (122.68, 116.67, 104.01)
    return Preprocessing(256, side, mean, (1.0, 1.0, 1.0), scale=1.0, interpolation="bicubic", shape="squash")
