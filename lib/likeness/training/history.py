"""The history of a training, epoch by epoch. Data only."""

from dataclasses import dataclass, field

from likeness.models.training_report import Epoch


@dataclass
class History:
    """Epochs of a training; the weights of the epoch `best`, from 0, are kept: the last one without validation."""

    epochs: list[Epoch] = field(default_factory=list)
    best: int = -1
