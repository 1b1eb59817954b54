"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition"), 32 px, grey."""

from typing import TYPE_CHECKING

from likeness.images.image import Preprocessing
from likeness.models.backbones.class_names import digit_classes
from likeness.models.backbones.spec import Backbone, Built, Layer, Stage
from likeness.models.backbones.weights import weights_not_published

if TYPE_CHECKING:
    import torch

_GREY = (0.299, 0.587, 0.114)
C3 = ("012", "123", "234", "345", "045", "015", "0123", "1234", "2345", "0345", "0145", "0125", "0134", "1245", "0235")
"""Table I of the paper: the maps of S2 that each map of C3 is connected to; the sixteenth is connected to all."""


def _network() -> Built:
    import torch
    from torch.nn import AvgPool2d, Conv2d, Linear, Module, ModuleDict, Parameter
    from torch.nn import functional as F

    from likeness.models.backbones.network import Dense, Lambda

    class Partial(Conv2d):
        """A convolution whose output maps are each connected to some of the input maps."""

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            mask = torch.tensor(
                [[float(str(source) in sources) for source in range(6)] for sources in (*C3, "012345")],
                device=maps.device,
            )
            return F.conv2d(maps, self.weight * mask[:, :, None, None], self.bias)

    class Subsampling(Module):
        """The mean of 2 x 2 values, scaled and shifted by two parameters of the map."""

        def __init__(self, maps: int) -> None:
            super().__init__()
            self.factor, self.bias = Parameter(torch.ones(maps)), Parameter(torch.zeros(maps))
            self.mean = AvgPool2d(2)

        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            pooled: torch.Tensor = self.mean(maps) * self.factor[:, None, None] + self.bias[:, None, None]
            return pooled

    f6, output = Linear(120, 84), Linear(84, 10)
    net = ModuleDict(
        {
            "c1": Conv2d(1, 6, 5),
            "s2": Subsampling(6),
            "c3": Partial(6, 16, 5),
            "s4": Subsampling(16),
            "c5": Conv2d(16, 120, 5),
            "f6": f6,
            "output": output,
        }
    )
    stages: list[Stage] = [("grey", Lambda(_grey))]
    for name in ("c1", "s2", "c3", "s4", "c5"):
        stages.append((name, torch.nn.Sequential(net[name], Lambda(_scaled_tanh))))
    last = ("f6", torch.nn.Sequential(Dense(f6), Lambda(_scaled_tanh)))
    return net, [*stages, last, ("logits", Dense(output))]


def _grey(images: "torch.Tensor") -> "torch.Tensor":
    return _GREY[0] * images[:, :1] + _GREY[1] * images[:, 1:2] + _GREY[2] * images[:, 2:]


def _scaled_tanh(maps: "torch.Tensor") -> "torch.Tensor":
    """The paper's sigmoid, 1.7159 tanh(2/3 x) (appendix A)."""
    return 1.7159 * (maps * (2 / 3)).tanh()


BACKBONES = (
    Backbone(
        name="lenet5",
        doc="LeNet-5 of 1998, with a linear layer in the place of its radial basis functions",
        licence="Apache-2.0 (written here)",
        source="a file",
        preprocessing=Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        layers={
            "c1": Layer((6, 28, 28), "first convolution"),
            "s2": Layer((6, 14, 14), "first subsampling"),
            "c3": Layer((16, 10, 10), "second convolution, partly connected"),
            "s4": Layer((16, 5, 5), "second subsampling"),
            "c5": Layer((120,), "third convolution, over the whole map", dense=True),
            "f6": Layer((84,), "fully connected layer", dense=True),
            "logits": Layer((10,), "scores of the digits", dense=True),
        },
        weights=lambda: weights_not_published("lenet5", "nobody has published any"),
        network=_network,
        classes=digit_classes,
    ),
)
