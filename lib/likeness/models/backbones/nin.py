"""Network in Network (Lin et al. 2013), the ImageNet model of Caffe's zoo: no fully connected layer at all."""

from likeness.models.backbones.class_names import imagenet_classes
from likeness.models.backbones.providers import caffe_preprocessing
from likeness.models.backbones.spec import Backbone, Built, Published, Stage, layer_table
from likeness.models.backbones.weights import weights_not_published


def _network() -> Built:
    from torch.nn import AdaptiveAvgPool2d, Conv2d, MaxPool2d, ModuleDict, ReLU, Sequential

    from likeness.models.backbones.network import RgbToBgr

    net = ModuleDict(
        {
            "conv1": Conv2d(3, 96, 11, 4),
            "cccp1": Conv2d(96, 96, 1),
            "cccp2": Conv2d(96, 96, 1),
            "conv2": Conv2d(96, 256, 5, 1, 2),
            "cccp3": Conv2d(256, 256, 1),
            "cccp4": Conv2d(256, 256, 1),
            "conv3": Conv2d(256, 384, 3, 1, 1),
            "cccp5": Conv2d(384, 384, 1),
            "cccp6": Conv2d(384, 384, 1),
            "conv4": Conv2d(384, 1024, 3, 1, 1),
            "cccp7": Conv2d(1024, 1024, 1),
            "cccp8": Conv2d(1024, 1000, 1),
        }
    )
    stages: list[Stage] = [("bgr", RgbToBgr())]
    for name, convolution in net.items():
        stages.append((name, Sequential(convolution, ReLU())))
        if name in ("cccp2", "cccp4", "cccp6"):
            # Caffe rounds the size of a pooled map up
            stages.append((f"pool{int(name[-1]) // 2}", MaxPool2d(3, 2, ceil_mode=True)))
    return net, [*stages, ("logits", AdaptiveAvgPool2d(1))]


_LAYERS = layer_table("""
conv1 96x54x54 first convolution
cccp1 96x54x54 its first 1 x 1 convolution
cccp2 96x54x54 its second 1 x 1 convolution
pool1 96x27x27 first maximum pooling
conv2 256x27x27 second convolution
cccp3 256x27x27 its first 1 x 1 convolution
cccp4 256x27x27 its second 1 x 1 convolution
pool2 256x13x13 second maximum pooling
conv3 384x13x13 third convolution
cccp5 384x13x13 its first 1 x 1 convolution
cccp6 384x13x13 its second 1 x 1 convolution
pool3 384x6x6 third maximum pooling
conv4 1024x6x6 fourth convolution
cccp7 1024x6x6 its first 1 x 1 convolution
cccp8 1000x6x6 its second 1 x 1 convolution: a map a class
logits 1000 class scores: the maps, mean over their positions
""")

BACKBONES = (
    Backbone(
        name="nin",
        doc="Network in Network, Caffe's nin_imagenet",
        licence="unrestricted use (Caffe's model zoo)",
        source="a file",
        preprocessing=caffe_preprocessing(224),
        layers=_LAYERS,
        weights=lambda: weights_not_published("nin", "Caffe's model zoo has them as nin_imagenet.caffemodel"),
        network=_network,
        classes=imagenet_classes,
        published=Published(59.36, None, "Caffe's model zoo, nin_imagenet"),
    ),
)
