"""GoogLeNet (Szegedy et al. 2014) and Inception v3 (Szegedy et al. 2015), as torchvision has them."""

import dataclasses
from typing import Any

from likeness.models.backbones.providers import IMAGENET, torchvision_backbone
from likeness.models.backbones.spec import Built, Layer, layer_table

_GOOGLENET = layer_table("""
conv1 64x112x112 first convolution
maxpool1 64x56x56 first maximum pooling
conv2 64x56x56 second convolution, 1 x 1
conv3 192x56x56 third convolution
maxpool2 192x28x28 second maximum pooling
inception3a 256x28x28 module 3a
inception3b 480x28x28 module 3b
maxpool3 480x14x14 third maximum pooling
inception4a 512x14x14 module 4a
inception4b 512x14x14 module 4b
inception4c 512x14x14 module 4c
inception4d 528x14x14 module 4d
inception4e 832x14x14 module 4e
maxpool4 832x7x7 fourth maximum pooling
inception5a 832x7x7 module 5a
inception5b 1024x7x7 module 5b
avgpool 1024 the last map, mean over its positions
logits 1000 class scores
""")
_V3 = layer_table("""
Conv2d_1a_3x3 32x149x149 first convolution
Conv2d_2a_3x3 32x147x147 second convolution
Conv2d_2b_3x3 64x147x147 third convolution
maxpool1 64x73x73 first maximum pooling
Conv2d_3b_1x1 80x73x73 fourth convolution, 1 x 1
Conv2d_4a_3x3 192x71x71 fifth convolution
maxpool2 192x35x35 second maximum pooling
Mixed_5b 256x35x35 module 5b
Mixed_5c 288x35x35 module 5c
Mixed_5d 288x35x35 module 5d
Mixed_6a 768x17x17 module 6a, halves the map
Mixed_6b 768x17x17 module 6b
Mixed_6c 768x17x17 module 6c
Mixed_6d 768x17x17 module 6d
Mixed_6e 768x17x17 module 6e
Mixed_7a 1280x8x8 module 7a, halves the map
Mixed_7b 2048x8x8 module 7b
Mixed_7c 2048x8x8 module 7c
avgpool 2048 the last map, mean over its positions
logits 1000 class scores
""")
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
