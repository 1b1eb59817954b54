"""The main subject's box, and landmarks: attributes `box` and `landmarks`, shares of the photo with blanks between.

What is learned are its edges, so that an embedding search may look at the subject alone.   [torch]
"""

from collections.abc import Sequence

import torch

from likeness.catalog.annotations import Annotation
from likeness.core.errors import DataError
from likeness.core.settings import Train
from likeness.core.statistics import Figure
from likeness.evaluation import model_metrics
from likeness.models.backbones.heads import Head
from likeness.training import losses
from likeness.training.data import Data
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.task import Predictions, Task


class Boxes(Task):
    """Four edges, and two numbers a landmark."""

    candidates = ({"hidden": [512], "dropout": 0.2}, {"hidden": [1024], "dropout": 0.2})

    def __init__(self, data: Data, how: Train) -> None:
        """Learns how many landmarks there are.

        Raises:
            DataError: photos have different numbers of them, or a box is none.
        """
        told = [_numbers(one) for one in data.shown[: data.learned] if _boxed(one)]
        lengths = {len(one) for one in told}
        if len(lengths) != 1 or any(not _is_box(one) for one in told):
            raise DataError(
                "task boxes: listings need an attribute box of left, top, right and bottom between 0 and 1, and "
                f"as many landmarks each; {len(told)} have one, with {sorted(lengths) or 'no'} numbers"
            )
        self._outputs = lengths.pop()

    def usable(self, one: Annotation) -> bool:
        """It has a box."""
        return _boxed(one)

    def top(self, inputs: int, how: Train) -> Head:
        """Four edges, and two numbers a landmark."""
        return Head("box", inputs, tuple(how.hidden), self._outputs, how.activation)

    def targets(self, data: Data) -> torch.Tensor:
        """float32 (photos, 4 + 2 x landmarks)."""
        return torch.tensor([_numbers(one) for one in data.shown])

    def loss(self, targets: torch.Tensor, how: Train, ranks: Workers) -> Loss:
        """The distance of the numbers."""
        return losses.distance("l2" if how.loss == "l2" else "smooth_l1")

    def figures(self, found: Predictions) -> dict[str, Figure]:
        """Intersection over union of the boxes, and the share over one half."""
        return model_metrics.boxes(found.asked, found.truth)

    def value(self, found: Predictions) -> float:
        """Intersection over union."""
        return float(model_metrics.iou(found.asked[:, :4], found.truth[:, :4]).mean())


def _boxed(one: Annotation) -> bool:
    return any(key == "box" for key, _ in one.attributes)


def _numbers(one: Annotation) -> list[float]:
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
