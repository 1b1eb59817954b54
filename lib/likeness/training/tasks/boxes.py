"""Task `boxes`: regression of the main subject's box and of landmarks.   [torch]

Attributes `box` and `landmarks` have the edges and points, between 0 and 1, separated by blanks. With a predicted box
a search can use the subject alone.
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
from likeness.training.data import TrainingData
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.task import Predictions, Task


class Boxes(Task):
    """Learns the four edges of a box, and two coordinates for each landmark."""

    candidates = ({"hidden": [512], "dropout": 0.2}, {"hidden": [1024], "dropout": 0.2})

    def __init__(self, data: TrainingData, settings: Train) -> None:
        """Finds the number of landmarks.

        Raises:
            DataError: photos have different numbers of landmarks, or a box is invalid.
        """
        boxes = [_coordinates(photo) for photo in data.train_annotations if _has_box(photo)]
        lengths = {len(box) for box in boxes}
        if len(lengths) != 1 or any(not _is_valid(box) for box in boxes):
            raise DataError(
                "task boxes: listings need an attribute box of left, top, right and bottom between 0 and 1, and "
                f"as many landmarks each; {len(boxes)} have one, with {sorted(lengths) or 'no'} numbers"
            )
        self._outputs = lengths.pop()

    def is_usable(self, annotation: Annotation) -> bool:
        """Whether the photo has a box."""
        return _has_box(annotation)

    def head(self, inputs: int, settings: Train) -> Head:
        """A head that gives the coordinates."""
        return Head("box", inputs, tuple(settings.hidden), self._outputs, settings.activation)

    def targets(self, data: TrainingData) -> torch.Tensor:
        """float32 (photos, 4 + 2 x landmarks)."""
        return torch.tensor([_coordinates(annotation) for annotation in data.annotations])

    def loss(self, targets: torch.Tensor, settings: Train, workers: Workers) -> Loss:
        """Squared or smooth L1 distance of the coordinates."""
        return losses.regression("l2" if settings.loss == "l2" else "smooth_l1")

    def metrics(self, predictions: Predictions) -> dict[str, Figure]:
        """Mean intersection over union, the share over one half, and the mean distance of landmarks."""
        return model_metrics.boxes(predictions.outputs, predictions.targets)

    def main_metric(self, predictions: Predictions) -> float:
        """Mean intersection over union."""
        return float(model_metrics.iou(predictions.outputs[:, :4], predictions.targets[:, :4]).mean())


def _has_box(annotation: Annotation) -> bool:
    return any(key == "box" for key, _ in annotation.attributes)


def _coordinates(annotation: Annotation) -> list[float]:
    attributes = dict(annotation.attributes)
    box, landmarks = attributes["box"], attributes.get("landmarks", "")
    try:
        return [float(number) for number in f"{box} {landmarks}".split()]
    except ValueError:
        raise DataError(
            f"product {min(annotation.products)!r}: box {box!r}, landmarks {landmarks!r}: "
            "write numbers between 0 and 1, separated by blanks"
        ) from None


def _is_valid(box: Sequence[float]) -> bool:
    left, top, right, bottom = box[:4] if len(box) >= 4 else (1, 1, 0, 0)
    return 0 <= left < right <= 1 and 0 <= top < bottom <= 1 and len(box) % 2 == 0
