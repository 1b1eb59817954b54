"""GoogLeNet (Szegedy et al. 2014) and Inception v3 (Szegedy et al. 2015), as torchvision has them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from likeness.backbones.classes import imagenet
from likeness.backbones.spec import Backbone, Layer, Published
from likeness.backbones.weights import torchvision_file
from likeness.images import Preprocessing

if TYPE_CHECKING:
    import torch

_GOOGLENET = {
    "conv1": Layer((64, 112, 112), "first convolution"),
    "maxpool1": Layer((64, 56, 56), "first maximum pooling"),
    "conv2": Layer((64, 56, 56), "second convolution, 1 x 1"),
    "conv3": Layer((192, 56, 56), "third convolution"),
    "maxpool2": Layer((192, 28, 28), "second maximum pooling"),
    "inception3a": Layer((256, 28, 28), "module 3a"),
    "inception3b": Layer((480, 28, 28), "module 3b"),
    "maxpool3": Layer((480, 14, 14), "third maximum pooling"),
    "inception4a": Layer((512, 14, 14), "module 4a"),
    "inception4b": Layer((512, 14, 14), "module 4b"),
    "inception4c": Layer((512, 14, 14), "module 4c"),
    "inception4d": Layer((528, 14, 14), "module 4d"),
    "inception4e": Layer((832, 14, 14), "module 4e"),
    "maxpool4": Layer((832, 7, 7), "fourth maximum pooling"),
    "inception5a": Layer((832, 7, 7), "module 5a"),
    "inception5b": Layer((1024, 7, 7), "module 5b"),
    "avgpool": Layer((1024,), "the last map, mean over its positions"),
    "logits": Layer((1000,), "class scores"),
}
_V3 = {
    "Conv2d_1a_3x3": Layer((32, 149, 149), "first convolution"),
    "Conv2d_2a_3x3": Layer((32, 147, 147), "second convolution"),
    "Conv2d_2b_3x3": Layer((64, 147, 147), "third convolution"),
    "maxpool1": Layer((64, 73, 73), "first maximum pooling"),
    "Conv2d_3b_1x1": Layer((80, 73, 73), "fourth convolution, 1 x 1"),
    "Conv2d_4a_3x3": Layer((192, 71, 71), "fifth convolution"),
    "maxpool2": Layer((192, 35, 35), "second maximum pooling"),
    "Mixed_5b": Layer((256, 35, 35), "module 5b"),
    "Mixed_5c": Layer((288, 35, 35), "module 5c"),
    "Mixed_5d": Layer((288, 35, 35), "module 5d"),
    "Mixed_6a": Layer((768, 17, 17), "module 6a, halves the map"),
    "Mixed_6b": Layer((768, 17, 17), "module 6b"),
    "Mixed_6c": Layer((768, 17, 17), "module 6c"),
    "Mixed_6d": Layer((768, 17, 17), "module 6d"),
    "Mixed_6e": Layer((768, 17, 17), "module 6e"),
    "Mixed_7a": Layer((1280, 8, 8), "module 7a, halves the map"),
    "Mixed_7b": Layer((2048, 8, 8), "module 7b"),
    "Mixed_7c": Layer((2048, 8, 8), "module 7c"),
    "avgpool": Layer((2048,), "the last map, mean over its positions"),
    "logits": Layer((1000,), "class scores"),
}


def _layer(name: str) -> str:
    """Torchvision's name of a module, as a layer's is written here: `Conv2d_1a_3x3` is `conv2d_1a_3x3`."""
    return name.lower()


def _network(name: str, modules: Sequence[str]) -> "tuple[torch.nn.Module, Sequence[tuple[str, torch.nn.Module]]]":
    import torchvision

    from likeness.backbones.network import Call, Dense

    net: Any = getattr(torchvision.models, name)(weights=None, init_weights=False, transform_input=True)
    stages = [(_layer(one), getattr(net, one)) for one in modules if one != "logits"]
    # the weights come from TensorFlow, whose photos had values between -1 and 1
    return net, [("transform", Call(net._transform_input)), *stages, ("logits", Dense(net.fc))]


def _lower(layers: dict[str, Layer]) -> dict[str, Layer]:
    return {_layer(name): layer for name, layer in layers.items()}


BACKBONES = (
    Backbone(
        name="googlenet",
        doc="GoogLeNet with batch normalisation, torchvision's IMAGENET1K_V1",
        licence="BSD-3-Clause (torchvision)",
        source="torchvision",
        preprocessing=Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        layers=_lower(_GOOGLENET),
        weights=lambda: torchvision_file("googlenet-1378be20.pth"),
        network=lambda: _network("googlenet", list(_GOOGLENET)),
        classes=imagenet,
        published=Published(69.78, 89.53, "torchvision"),
    ),
    Backbone(
        name="inception_v3",
        doc="Inception v3, torchvision's IMAGENET1K_V1, 299 px",
        licence="BSD-3-Clause (torchvision)",
        source="torchvision",
        preprocessing=Preprocessing(342, 299, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        layers=_lower(_V3),
        weights=lambda: torchvision_file("inception_v3_google-0cc3c7bd.pth"),
        network=lambda: _network("inception_v3", list(_V3)),
        classes=imagenet,
        published=Published(77.29, 93.45, "torchvision"),
    ),
)
