"""The names of the classes that networks know, in the order of their scores.   [torchvision]"""

from collections.abc import Sequence


def imagenet() -> Sequence[str]:
    """The thousand of ImageNet's challenge of 2012, as torchvision names them."""
    from torchvision.models import AlexNet_Weights

    names: Sequence[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    return names


def digits() -> Sequence[str]:
    """Zero to nine."""
    return [str(number) for number in range(10)]
