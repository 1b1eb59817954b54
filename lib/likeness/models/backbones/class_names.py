"""Names of classes in the order of the logits.   [torchvision]"""

from collections.abc import Sequence


def imagenet_classes() -> Sequence[str]:
    """The 1,000 classes of the ImageNet challenge of 2012, as torchvision names them."""
    from torchvision.models import AlexNet_Weights

    names: Sequence[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    return names


def digit_classes() -> Sequence[str]:
    """The digits zero to nine."""
    return [str(number) for number in range(10)]
