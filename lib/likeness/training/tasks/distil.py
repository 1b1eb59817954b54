"""A layer that knows what the vectors of a teacher know; no category is looked at.   [torch]"""

import torch

from likeness.core.settings import Train
from likeness.models.backbones.heads import Head
from likeness.training import losses
from likeness.training.data import Data
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.task import Neighbourly


class Distil(Neighbourly):
    """The layer's vector; a top turns it into the teacher's, and is thrown away in the end."""

    topped = False

    def __init__(self, data: Data, how: Train) -> None:
        """The data's vectors are the teacher's."""
        self._dim = data.vectors.shape[1]

    def top(self, inputs: int, how: Train) -> Head:
        """From the layer to the teacher's vector."""
        return Head("embedding", inputs, (), self._dim)

    def targets(self, data: Data) -> torch.Tensor:
        """The teacher's vectors, float32 (photos, dim), without what all photos have in common: it hides the rest."""
        return torch.from_numpy(data.vectors - data.vectors[: data.learned].mean(axis=0))

    def loss(self, targets: torch.Tensor, how: Train, ranks: Workers) -> Loss:
        """Direction, and who is like whom."""
        return losses.likeness_of(ranks)
