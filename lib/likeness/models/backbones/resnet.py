"""ResNet (He et al. 2015) with bottlenecks, as torchvision has it."""

from typing import Any

from likeness.models.backbones.providers import torchvision_backbone
from likeness.models.backbones.spec import Built, layer_table


def _network(name: str) -> Built:
    import torchvision
    from torch.nn import Sequential

    from likeness.models.backbones.network import Dense

    net: Any = getattr(torchvision.models, name)(weights=None)
    blocks = [(f"layer{number}", getattr(net, f"layer{number}")) for number in range(1, 5)]
    first = ("conv1", Sequential(net.conv1, net.bn1, net.relu))
    return net, [first, ("pool1", net.maxpool), *blocks, ("avgpool", net.avgpool), ("logits", Dense(net.fc))]


_LAYERS = layer_table("""
conv1 64x112x112 first convolution after its ReLU
pool1 64x56x56 maximum pooling
layer1 256x56x56 first stage of blocks (conv2_x)
layer2 512x28x28 second stage of blocks (conv3_x)
layer3 1024x14x14 third stage of blocks (conv4_x)
layer4 2048x7x7 fourth stage of blocks (conv5_x)
avgpool 2048 the last map, mean over its positions
logits 1000 class scores
""")
_FILES = {
    "resnet50": ("resnet50-0676ba61.pth", (76.13, 92.86)),
    "resnet101": ("resnet101-63fe2227.pth", (77.37, 93.55)),
    "resnet152": ("resnet152-394f9c45.pth", (78.31, 94.05)),
}

BACKBONES = tuple(
    torchvision_backbone(name, f"ResNet-{name.removeprefix('resnet')}", file, _LAYERS, _network, published)
    for name, (file, published) in _FILES.items()
)
