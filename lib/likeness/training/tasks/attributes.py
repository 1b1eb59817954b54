"""Task `attributes`: multi-label classification by attributes as `colour=red`.   [torch]"""

from collections import Counter

import torch

from likeness.core.errors import UsageError
from likeness.core.settings import Train
from likeness.core.statistics import Figure
from likeness.evaluation import model_metrics
from likeness.models.backbones.heads import Head
from likeness.training import losses
from likeness.training.data import TrainingData
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.task import Predictions, Task, require_photos

_MIN_PHOTOS = 20
"""Photos that an attribute needs to be trained without being named."""


class Attributes(Task):
    """Learns a logit for each attribute."""

    candidates = ({"hidden": [], "dropout": 0.0}, {"hidden": [256]}, {"hidden": [512]})

    def __init__(self, data: TrainingData, settings: Train) -> None:
        """Finds the attributes of the training photos.

        Raises:
            DataError: one of them has too few photos.
            UsageError: there are none.
        """
        photos = data.train_annotations
        counts = Counter(f"{key}={value}" for photo in photos for key, value in photo.attributes)
        frequent = [name for name, count in counts.items() if _MIN_PHOTOS <= count < len(photos)]
        self.classes = sorted(settings.classes or frequent)
        if not self.classes:
            raise UsageError(
                f"task attributes: no attribute has {_MIN_PHOTOS} photos; name attributes with train.classes"
            )
        require_photos(self.classes, counts, settings)

    def head(self, inputs: int, settings: Train) -> Head:
        """A head that gives a logit for each attribute."""
        return Head("logits", inputs, tuple(settings.hidden), len(self.classes), settings.activation)

    def targets(self, data: TrainingData) -> torch.Tensor:
        """float32 (photos, attributes) of 0 and 1."""
        present = [{f"{key}={value}" for key, value in photo.attributes} for photo in data.annotations]
        return torch.tensor([[float(name in attributes) for name in self.classes] for attributes in present])

    def loss(self, targets: torch.Tensor, settings: Train, workers: Workers) -> Loss:
        """Binary cross-entropy of each attribute, balanced if `train.balance` is set."""
        ones = targets.sum(0).clamp(min=1)
        weights = ((len(targets) - ones) / ones).to(workers.device) if settings.balance else None
        return losses.binary_cross_entropy(weights)

    def metrics(self, predictions: Predictions) -> dict[str, Figure]:
        """Mean average precision, and the share of attributes that are predicted correctly."""
        return model_metrics.attributes(predictions.outputs, predictions.targets.astype(bool))

    def main_metric(self, predictions: Predictions) -> float:
        """Mean average precision."""
        precisions = model_metrics.average_precisions(predictions.outputs, predictions.targets.astype(bool))
        return float(precisions.mean())
