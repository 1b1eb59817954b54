"""Task `metric`: metric learning of an embedding for search, near for photos of one category.   [torch]"""

import torch

from likeness.catalog.annotations import Annotation
from likeness.core.settings import Train
from likeness.models.backbones.heads import Head
from likeness.training import losses
from likeness.training.data import TrainingData
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.category import Category
from likeness.training.tasks.task import EmbeddingTask


class Metric(EmbeddingTask):
    """Learns an embedding of length 1."""

    candidates = (
        {"hidden": [512], "temperature": 0.1},
        {"hidden": [1024], "temperature": 0.1},
        {"hidden": [512], "temperature": 0.05},
        {"hidden": [1024], "temperature": 0.2},
    )

    def __init__(self, data: TrainingData, settings: Train) -> None:
        """Finds the categories, as the task `category`.

        Raises:
            DataError: there is only one, or one has too few photos.
        """
        self._categories = Category(data, settings)

    def is_usable(self, annotation: Annotation) -> bool:
        """Whether the photo has exactly one category, and it is one of the classes."""
        return self._categories.is_usable(annotation)

    def head(self, inputs: int, settings: Train) -> Head:
        """A head that gives embeddings of length 1."""
        return Head("embedding", inputs, tuple(settings.hidden), settings.outputs, settings.activation, unit=True)

    def targets(self, data: TrainingData) -> torch.Tensor:
        """Numbers of the categories, int64 (photos,)."""
        return self._categories.targets(data)

    def loss(self, targets: torch.Tensor, settings: Train, workers: Workers) -> Loss:
        """Supervised contrastive loss, or triplet loss if `train.loss` says so."""
        if settings.loss == "triplet":
            return losses.triplet(workers)
        return losses.contrastive(workers, settings.temperature)
