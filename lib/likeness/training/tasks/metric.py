"""A vector whose neighbours are of the same category: for the search itself.   [torch]"""

import torch

from likeness.catalog.annotations import Annotation
from likeness.core.settings import Train
from likeness.models.backbones.heads import Head
from likeness.training import losses
from likeness.training.data import Data
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.category import Category
from likeness.training.tasks.task import Neighbourly


class Metric(Neighbourly):
    """A vector of length 1."""

    candidates = (
        {"hidden": [512], "temperature": 0.1},
        {"hidden": [1024], "temperature": 0.1},
        {"hidden": [512], "temperature": 0.05},
        {"hidden": [1024], "temperature": 0.2},
    )

    def __init__(self, data: Data, how: Train) -> None:
        """As Category."""
        self._categories = Category(data, how)

    def usable(self, one: Annotation) -> bool:
        """It has one category, that is learned."""
        return self._categories.usable(one)

    def top(self, inputs: int, how: Train) -> Head:
        """A vector of length 1."""
        return Head("embedding", inputs, tuple(how.hidden), how.outputs, how.activation, unit=True)

    def targets(self, data: Data) -> torch.Tensor:
        """The category's number, int64 (photos,)."""
        return self._categories.targets(data)

    def loss(self, targets: torch.Tensor, how: Train, ranks: Workers) -> Loss:
        """Contrastive, or of triplets."""
        return losses.triplet(ranks) if how.loss == "triplet" else losses.contrastive(ranks, how.temperature)
