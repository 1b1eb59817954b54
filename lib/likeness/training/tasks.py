"""What can be learned: photos with what their listings say in; targets, a loss, a top and figures out.   [torch]

A new task is a class here, and its name in TASKS.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from likeness.backbones.trained import Top
from likeness.errors import DataError, UsageError
from likeness.evaluation import Figure, Labels
from likeness.held_out import Shown
from likeness.settings import Train
from likeness.training import losses, measures
from likeness.training.losses import Loss
from likeness.training.ranks import Ranks

_TOLD = 5
_COMMON = 20
"""Photos that an attribute needs, if the attributes are not named."""


@dataclass(frozen=True)
class Found:
    """What a network gives for the photos that it is measured on, and for those that it has learned from.

    float32 (photos, outputs) each; what listings say of the same photos.
    """

    asked: np.ndarray
    asked_of: Sequence[Shown]
    known: np.ndarray
    known_of: Sequence[Shown]


class Task(Protocol):
    """One thing that can be learned, from some photos."""

    @property
    def classes(self) -> Sequence[str]:
        """What it tells apart; empty where that is nothing with a name."""
        ...

    @property
    def candidates(self) -> Sequence[Mapping[str, Any]]:
        """What cross-validation chooses from: settings of `train` that take the place of the given ones."""
        ...

    @property
    def gallery(self) -> bool:
        """Whether it is measured by neighbours among the photos that were learned from."""
        ...

    def usable(self, one: Shown) -> bool:
        """Whether a photo can be learned from, or be measured on."""
        ...

    def top(self, inputs: int, how: Train) -> Top:
        """What is put on a vector of so many numbers."""
        ...

    def targets(self, photos: Sequence[Shown]) -> torch.Tensor:
        """What the network ought to give, by photo."""
        ...

    def loss(self, targets: torch.Tensor, how: Train, ranks: Ranks) -> Loss:
        """What is lowered."""
        ...

    def figures(self, found: Found) -> dict[str, Figure]:
        """How good it is; the first is what a promotion goes by."""
        ...

    def value(self, found: Found) -> float:
        """The first of the figures, higher is better, without an interval: it is wanted after each epoch."""
        ...


class Category:
    """The category of a photo, of one."""

    gallery = False
    candidates = (
        {"hidden": [], "dropout": 0.0},
        {"hidden": [256]},
        {"hidden": [512]},
        {"hidden": [512], "smoothing": 0.0},
        {"hidden": [1024], "rate": 5e-4},
    )

    def __init__(self, photos: Sequence[Shown], how: Train) -> None:
        """Learns which categories there are.

        Raises:
            DataError: one of them has too few photos.
        """
        counts = Counter(next(iter(one.categories)) for one in photos if len(one.categories) == 1)
        self.classes = sorted(how.classes or counts)
        _enough(self.classes, counts, how)
        self._number = {name: number for number, name in enumerate(self.classes)}

    def usable(self, one: Shown) -> bool:
        """It has one category, that is learned."""
        return len(one.categories) == 1 and next(iter(one.categories)) in self._number

    def top(self, inputs: int, how: Train) -> Top:
        """Class scores."""
        return Top("logits", inputs, tuple(how.hidden), len(self.classes), how.activation)

    def targets(self, photos: Sequence[Shown]) -> torch.Tensor:
        """int64 (photos,)."""
        return torch.tensor([self._number[next(iter(one.categories))] for one in photos])

    def loss(self, targets: torch.Tensor, how: Train, ranks: Ranks) -> Loss:
        """Cross-entropy."""
        counts = torch.bincount(targets, minlength=len(self.classes)).clamp(min=1)
        weights = (len(targets) / len(self.classes) / counts).to(ranks.device) if how.balance else None
        return losses.cross_entropy(weights, how.smoothing)

    def figures(self, found: Found) -> dict[str, Figure]:
        """Accuracy, and the share whose category is among the first three."""
        return measures.accuracy(found.asked, self.targets(found.asked_of).numpy())

    def value(self, found: Found) -> float:
        """Accuracy."""
        return self.figures(found)["accuracy"].value


class Attributes:
    """Attributes of a photo, any number of them, as `colour=red`."""

    gallery = False
    candidates = ({"hidden": [], "dropout": 0.0}, {"hidden": [256]}, {"hidden": [512]})

    def __init__(self, photos: Sequence[Shown], how: Train) -> None:
        """Learns which attributes there are.

        Raises:
            DataError: one of them has too few photos.
            UsageError: there are none.
        """
        counts = Counter(f"{key}={value}" for one in photos for key, value in one.attributes)
        frequent = [name for name, count in counts.items() if _COMMON <= count < len(photos)]
        self.classes = sorted(how.classes or frequent)
        if not self.classes:
            raise UsageError(f"task attributes: no listing's attribute has {_COMMON} photos; name some: train.classes")
        _enough(self.classes, counts, how)

    def usable(self, one: Shown) -> bool:
        """Every photo is."""
        return True

    def top(self, inputs: int, how: Train) -> Top:
        """A score for each."""
        return Top("logits", inputs, tuple(how.hidden), len(self.classes), how.activation)

    def targets(self, photos: Sequence[Shown]) -> torch.Tensor:
        """float32 (photos, attributes) of 0 and 1."""
        told = [{f"{key}={value}" for key, value in one.attributes} for one in photos]
        return torch.tensor([[float(name in each) for name in self.classes] for each in told])

    def loss(self, targets: torch.Tensor, how: Train, ranks: Ranks) -> Loss:
        """Binary cross-entropy of each."""
        ones = targets.sum(0).clamp(min=1)
        return losses.binary(((len(targets) - ones) / ones).to(ranks.device) if how.balance else None)

    def figures(self, found: Found) -> dict[str, Figure]:
        """Mean average precision, and the share of attributes that are told right."""
        return measures.attributes(found.asked, self.targets(found.asked_of).numpy().astype(bool))

    def value(self, found: Found) -> float:
        """Mean average precision."""
        return self.figures(found)["map"].value


class Metric:
    """A vector whose neighbours are of the same category: for the search itself."""

    gallery = True
    candidates = (
        {"hidden": [512], "temperature": 0.1},
        {"hidden": [1024], "temperature": 0.1},
        {"hidden": [512], "temperature": 0.05},
        {"hidden": [1024], "temperature": 0.2},
    )

    def __init__(self, photos: Sequence[Shown], how: Train) -> None:
        """As Category."""
        self._categories = Category(photos, how)
        self.classes: Sequence[str] = ()

    def usable(self, one: Shown) -> bool:
        """It has one category, that is learned."""
        return self._categories.usable(one)

    def top(self, inputs: int, how: Train) -> Top:
        """A vector of length 1."""
        return Top("embedding", inputs, tuple(how.hidden), how.outputs, how.activation, unit=True)

    def targets(self, photos: Sequence[Shown]) -> torch.Tensor:
        """The category's number, int64 (photos,)."""
        return self._categories.targets(photos)

    def loss(self, targets: torch.Tensor, how: Train, ranks: Ranks) -> Loss:
        """Contrastive, or of triplets."""
        return losses.triplet(ranks) if how.loss == "triplet" else losses.contrastive(ranks, how.temperature)

    def figures(self, found: Found) -> dict[str, Figure]:
        """P@10, P@1 of the photos asked, answered by those that were learned from."""
        return measures.neighbours(found.asked, _labels(found.asked_of), found.known, _labels(found.known_of))

    def value(self, found: Found) -> float:
        """P@10."""
        return _p10(found)


class Box:
    """The main subject's box, and landmarks: attributes `box` and `landmarks`, shares of the photo with blanks between.

    What is learned are its edges, so that an embedding search may look at the subject alone.
    """

    gallery = False
    candidates = ({"hidden": [512], "dropout": 0.2}, {"hidden": [1024], "dropout": 0.2})
    classes: Sequence[str] = ()

    def __init__(self, photos: Sequence[Shown], how: Train) -> None:
        """Learns how many landmarks there are.

        Raises:
            DataError: photos have different numbers of them, or a box is none.
        """
        told = [_numbers(one) for one in photos if _boxed(one)]
        lengths = {len(one) for one in told}
        if len(lengths) != 1 or any(not _is_box(one) for one in told):
            raise DataError(
                "task boxes: listings need an attribute box of left, top, right and bottom between 0 and 1, and "
                f"as many landmarks each; {len(told)} have one, with {sorted(lengths) or 'no'} numbers"
            )
        self._outputs = lengths.pop()

    def usable(self, one: Shown) -> bool:
        """It has a box."""
        return _boxed(one)

    def top(self, inputs: int, how: Train) -> Top:
        """Four edges, and two numbers a landmark."""
        return Top("box", inputs, tuple(how.hidden), self._outputs, how.activation)

    def targets(self, photos: Sequence[Shown]) -> torch.Tensor:
        """float32 (photos, 4 + 2 x landmarks)."""
        return torch.tensor([_numbers(one) for one in photos])

    def loss(self, targets: torch.Tensor, how: Train, ranks: Ranks) -> Loss:
        """The distance of the numbers."""
        return losses.distance("l2" if how.loss == "l2" else "smooth_l1")

    def figures(self, found: Found) -> dict[str, Figure]:
        """Intersection over union of the boxes, and the share over one half."""
        return measures.boxes(found.asked, self.targets(found.asked_of).numpy())

    def value(self, found: Found) -> float:
        """Intersection over union."""
        return self.figures(found)["iou"].value


class Distil:
    """A layer that knows what the vectors of a teacher know; no category is looked at."""

    gallery = True
    classes: Sequence[str] = ()
    candidates: Sequence[Mapping[str, Any]] = ()

    def __init__(self, dim: int) -> None:
        """The teacher's vectors have `dim` numbers."""
        self._dim = dim

    def usable(self, one: Shown) -> bool:
        """Every photo is."""
        return True

    def top(self, inputs: int, how: Train) -> Top:
        """From the layer to the teacher's vector; it is thrown away in the end."""
        return Top("embedding", inputs, (), self._dim)

    def targets(self, photos: Sequence[Shown]) -> torch.Tensor:
        """They are the teacher's vectors, not what listings say."""
        raise NotImplementedError

    def loss(self, targets: torch.Tensor, how: Train, ranks: Ranks) -> Loss:
        """Direction, and who is like whom."""
        return losses.likeness_of(ranks)

    def figures(self, found: Found) -> dict[str, Figure]:
        """P@10 and P@1 of the layer, as a search would have them."""
        return measures.neighbours(found.asked, _labels(found.asked_of), found.known, _labels(found.known_of))

    def value(self, found: Found) -> float:
        """P@10."""
        return _p10(found)


TASKS: Mapping[str, Callable[[Sequence[Shown], Train], Task]] = {
    "category": Category,
    "attributes": Attributes,
    "metric": Metric,
    "boxes": Box,
}


def _enough(classes: Sequence[str], counts: Mapping[str, int], how: Train) -> None:
    if len(classes) < 2:
        raise DataError(f"there is nothing to tell apart: {', '.join(classes) or 'no class'} alone; ingest more")
    few = [f"{name!r} has {counts.get(name, 0)}" for name in classes if counts.get(name, 0) < how.least]
    if few:
        told = ", ".join(few[:_TOLD]) + (f" and {len(few) - _TOLD} more" if len(few) > _TOLD else "")
        raise DataError(
            f"a class needs train.least = {how.least} photos to learn from: {told}. "
            "Find more photos of it, or name the classes to learn with train.classes"
        )


def _p10(found: Found) -> float:
    told = measures.agreeing(found.asked, _labels(found.asked_of), found.known, _labels(found.known_of))
    return float(told[:, 0].mean())


def _labels(photos: Sequence[Shown]) -> Labels:
    return Labels([one.categories for one in photos], [one.products for one in photos])


def _boxed(one: Shown) -> bool:
    return any(key == "box" for key, _ in one.attributes)


def _numbers(one: Shown) -> list[float]:
    told = dict(one.attributes)
    try:
        return [float(word) for word in f"{told['box']} {told.get('landmarks', '')}".split()]
    except ValueError:
        raise DataError(
            f"product {min(one.products)!r}: box {told['box']!r}, landmarks {told.get('landmarks', '')!r}: "
            "write numbers between 0 and 1 with blanks between"
        ) from None


def _is_box(numbers: Sequence[float]) -> bool:
    left, top, right, bottom = numbers[:4] if len(numbers) >= 4 else (1, 1, 0, 0)
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1 and len(numbers) % 2 == 0
