"""Task `distil`: a layer learns from the vectors of a teacher; categories are not used.   [torch]"""

import torch

from likeness.core.settings import Train
from likeness.models.backbones.heads import Head
from likeness.training import losses
from likeness.training.data import TrainingData
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.task import EmbeddingTask


class Distil(EmbeddingTask):
    """Learns the vector of a layer; a head maps it to the teacher's vector, and is dropped after training."""

    keeps_head = False

    def __init__(self, data: TrainingData, settings: Train) -> None:
        """Takes the dimension of the teacher's vectors, which are those of the data."""
        self._dim = data.vectors.shape[1]

    def head(self, inputs: int, settings: Train) -> Head:
        """A linear head to the teacher's dimension."""
        return Head("embedding", inputs, (), self._dim)

    def targets(self, data: TrainingData) -> torch.Tensor:
        """The teacher's vectors, float32 (photos, dim), less their mean, which would hide their differences."""
        return torch.from_numpy(data.vectors - data.vectors[: data.train_count].mean(axis=0))

    def loss(self, targets: torch.Tensor, settings: Train, workers: Workers) -> Loss:
        """Distillation: the direction of the vectors, and the similarities between photos."""
        return losses.distillation(workers)
