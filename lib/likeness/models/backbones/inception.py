"""GoogLeNet (Szegedy et al. 2014) and Inception v3 (Szegedy et al. 2015), as torchvision has them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from likeness.models.backbones.providers import IMAGENET, torchvision_backbone
from likeness.models.backbones.spec import Built, Layer


def _modules(prefix: str, side: int, channels: Mapping[str, int]) -> dict[str, Layer]:
    """Inception modules whose maps are `side` x `side`, by their numbers and channels."""
    return {f"{prefix}{name}": Layer((count, side, side), f"module {name}") for name, count in channels.items()}


_GOOGLENET = {
    "conv1": Layer((64, 112, 112), "first convolution"),
    "maxpool1": Layer((64, 56, 56), "first maximum pooling"),
    "conv2": Layer((64, 56, 56), "second convolution, 1 x 1"),
    "conv3": Layer((192, 56, 56), "third convolution"),
    "maxpool2": Layer((192, 28, 28), "second maximum pooling"),
    **_modules("inception", 28, {"3a": 256, "3b": 480}),
    "maxpool3": Layer((480, 14, 14), "third maximum pooling"),
    **_modules("inception", 14, {"4a": 512, "4b": 512, "4c": 512, "4d": 528, "4e": 832}),
    "maxpool4": Layer((832, 7, 7), "fourth maximum pooling"),
    **_modules("inception", 7, {"5a": 832, "5b": 1024}),
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
    **_modules("Mixed_", 35, {"5b": 256, "5c": 288, "5d": 288}),
    "Mixed_6a": Layer((768, 17, 17), "module 6a, halves the map"),
    **_modules("Mixed_", 17, {"6b": 768, "6c": 768, "6d": 768, "6e": 768}),
    "Mixed_7a": Layer((1280, 8, 8), "module 7a, halves the map"),
    **_modules("Mixed_", 8, {"7b": 2048, "7c": 2048}),
    "avgpool": Layer((2048,), "the last map, mean over its positions"),
    "logits": Layer((1000,), "class scores"),
}
_MODULES = {"googlenet": _GOOGLENET, "inception_v3": _V3}


def _network(name: str) -> Built:
    import torchvision

    from likeness.models.backbones.network import Dense, Lambda

    net: Any = getattr(torchvision.models, name)(weights=None, init_weights=False, transform_input=True)
    stages = [(module.lower(), getattr(net, module)) for module in _MODULES[name] if module != "logits"]
    # the weights come from TensorFlow, where pixels are between -1 and 1
    return net, [("transform", Lambda(net._transform_input)), *stages, ("logits", Dense(net.fc))]


def _layers(name: str) -> dict[str, Layer]:
    """Layers are named as torchvision's modules, in lower case: `Conv2d_1a_3x3` is `conv2d_1a_3x3`."""
    return {module.lower(): layer for module, layer in _MODULES[name].items()}


BACKBONES = (
    torchvision_backbone(
        "googlenet",
        "GoogLeNet with batch normalisation",
        "googlenet-1378be20.pth",
        _layers("googlenet"),
        _network,
        (69.78, 89.53),
    ),
    torchvision_backbone(
        "inception_v3",
        "Inception v3, 299 px",
        "inception_v3_google-0cc3c7bd.pth",
        _layers("inception_v3"),
        _network,
        (77.29, 93.45),
        dataclasses.replace(IMAGENET, resize=342, crop=299),
    ),
)
