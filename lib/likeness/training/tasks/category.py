"""Task `category`: classification of photos by their one category.   [torch]"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from likeness.catalog.annotations import Annotation
from likeness.core.settings import Train
from likeness.core.statistics import Figure, softmax
from likeness.evaluation import model_metrics
from likeness.models.backbones.heads import Head
from likeness.models.training_report import Calibration, CalibrationBin, ErrorAnalysis, Mistake
from likeness.training import losses
from likeness.training.data import TrainingData
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.task import Predictions, Task, require_photos

_MAX_MISTAKES = 24


class Category(Task):
    """Learns the logits of categories."""

    candidates = (
        {"hidden": [], "dropout": 0.0},
        {"hidden": [256]},
        {"hidden": [512]},
        {"hidden": [512], "smoothing": 0.0},
        {"hidden": [1024], "rate": 5e-4},
    )

    def __init__(self, data: TrainingData, settings: Train) -> None:
        """Finds the categories of the training photos.

        Raises:
            DataError: there is only one, or one has too few photos.
        """
        photos = data.train_annotations
        counts = Counter(next(iter(photo.categories)) for photo in photos if len(photo.categories) == 1)
        self.classes = sorted(settings.classes or counts)
        require_photos(self.classes, counts, settings)
        self._number = {name: number for number, name in enumerate(self.classes)}

    def is_usable(self, annotation: Annotation) -> bool:
        """Whether the photo has exactly one category, and it is one of the classes."""
        return len(annotation.categories) == 1 and next(iter(annotation.categories)) in self._number

    def head(self, inputs: int, settings: Train) -> Head:
        """A head that gives logits."""
        return Head("logits", inputs, tuple(settings.hidden), len(self.classes), settings.activation)

    def targets(self, data: TrainingData) -> torch.Tensor:
        """Numbers of the categories, int64 (photos,)."""
        return torch.tensor([self._number[next(iter(annotation.categories))] for annotation in data.annotations])

    def loss(self, targets: torch.Tensor, settings: Train, workers: Workers) -> Loss:
        """Cross-entropy, with balanced classes if `train.balance` is set."""
        counts = torch.bincount(targets, minlength=len(self.classes)).clamp(min=1)
        weights = (len(targets) / len(self.classes) / counts).to(workers.device) if settings.balance else None
        return losses.cross_entropy(weights, settings.smoothing)

    def metrics(self, predictions: Predictions) -> dict[str, Figure]:
        """Top-1 and top-3 accuracy."""
        return model_metrics.accuracy(predictions.outputs, predictions.targets)

    def main_metric(self, predictions: Predictions) -> float:
        """Top-1 accuracy."""
        return self.metrics(predictions)["accuracy"].value

    def temperature(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """The temperature of the highest likelihood."""
        return model_metrics.temperature(outputs, targets)

    def error_analysis(
        self, predictions: Predictions, temperature: float, image_ids: Sequence[str]
    ) -> ErrorAnalysis | None:
        """Confusion matrix, calibration and the most confident mistakes."""
        truth, probabilities = predictions.targets, softmax(predictions.outputs, temperature)
        bins, error = model_metrics.calibration(probabilities, truth)
        predicted = probabilities.argmax(axis=1)
        wrong = sorted(np.flatnonzero(predicted != truth).tolist(), key=lambda row: -probabilities[row].max())
        return ErrorAnalysis(
            confusion=model_metrics.confusion(predictions.outputs, truth).tolist(),
            calibration=Calibration(bins=[CalibrationBin.model_validate(vars(one)) for one in bins], error=error),
            mistakes=[
                Mistake(
                    image_id=image_ids[row],
                    truth=self.classes[truth[row]],
                    predicted=self.classes[predicted[row]],
                    confidence=float(probabilities[row].max()),
                )
                for row in wrong[:_MAX_MISTAKES]
            ],
        )
