"""The category of a photo, of one.   [torch]"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from likeness.catalog.annotations import Annotation
from likeness.core.settings import Train
from likeness.core.statistics import Figure, softmax
from likeness.evaluation import model_metrics
from likeness.models.backbones.heads import Head
from likeness.training import losses
from likeness.training.data import Data
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.task import Predictions, Task, enough

_MISTAKES = 24


class Category(Task):
    """Class scores."""

    candidates = (
        {"hidden": [], "dropout": 0.0},
        {"hidden": [256]},
        {"hidden": [512]},
        {"hidden": [512], "smoothing": 0.0},
        {"hidden": [1024], "rate": 5e-4},
    )

    def __init__(self, data: Data, how: Train) -> None:
        """Learns which categories there are.

        Raises:
            DataError: one of them has too few photos.
        """
        photos = data.shown[: data.learned]
        counts = Counter(next(iter(one.categories)) for one in photos if len(one.categories) == 1)
        self.classes = sorted(how.classes or counts)
        enough(self.classes, counts, how)
        self._number = {name: number for number, name in enumerate(self.classes)}

    def usable(self, one: Annotation) -> bool:
        """It has one category, that is learned."""
        return len(one.categories) == 1 and next(iter(one.categories)) in self._number

    def top(self, inputs: int, how: Train) -> Head:
        """Class scores."""
        return Head("logits", inputs, tuple(how.hidden), len(self.classes), how.activation)

    def targets(self, data: Data) -> torch.Tensor:
        """int64 (photos,)."""
        return torch.tensor([self._number[next(iter(one.categories))] for one in data.shown])

    def loss(self, targets: torch.Tensor, how: Train, ranks: Workers) -> Loss:
        """Cross-entropy."""
        counts = torch.bincount(targets, minlength=len(self.classes)).clamp(min=1)
        weights = (len(targets) / len(self.classes) / counts).to(ranks.device) if how.balance else None
        return losses.cross_entropy(weights, how.smoothing)

    def figures(self, found: Predictions) -> dict[str, Figure]:
        """Accuracy, and the share whose category is among the first three."""
        return model_metrics.accuracy(found.asked, found.truth)

    def value(self, found: Predictions) -> float:
        """Accuracy."""
        return self.figures(found)["accuracy"].value

    def temperature(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        """Where the likelihood is the largest."""
        return model_metrics.temperature(outputs, truth)

    def closer(self, found: Predictions, temperature: float, image_ids: Sequence[str]) -> dict[str, Any]:
        """Confusions, calibration and the worst mistakes."""
        truth, probabilities = found.truth, softmax(found.asked, temperature)
        bins, error = model_metrics.calibration(probabilities, truth)
        said = probabilities.argmax(axis=1)
        wrong = sorted(np.flatnonzero(said != truth).tolist(), key=lambda row: -probabilities[row].max())
        return {
            "confusion": model_metrics.confusion(found.asked, truth).tolist(),
            "calibration": {"bins": [vars(one) for one in bins], "error": error},
            "mistakes": [
                {
                    "image_id": image_ids[row],
                    "truth": self.classes[truth[row]],
                    "said": self.classes[said[row]],
                    "sure": float(probabilities[row].max()),
                }
                for row in wrong[:_MISTAKES]
            ],
        }
