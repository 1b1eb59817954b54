"""Attributes of a photo, any number of them, as `colour=red`.   [torch]"""

from collections import Counter

import torch

from likeness.core.errors import UsageError
from likeness.core.settings import Train
from likeness.core.statistics import Figure
from likeness.evaluation import model_metrics
from likeness.models.backbones.heads import Head
from likeness.training import losses
from likeness.training.data import Data
from likeness.training.distributed import Workers
from likeness.training.losses import Loss
from likeness.training.tasks.task import Predictions, Task, enough

_COMMON = 20
"""Photos that an attribute needs, if the attributes are not named."""


class Attributes(Task):
    """A score for each."""

    candidates = ({"hidden": [], "dropout": 0.0}, {"hidden": [256]}, {"hidden": [512]})

    def __init__(self, data: Data, how: Train) -> None:
        """Learns which attributes there are.

        Raises:
            DataError: one of them has too few photos.
            UsageError: there are none.
        """
        photos = data.shown[: data.learned]
        counts = Counter(f"{key}={value}" for one in photos for key, value in one.attributes)
        frequent = [name for name, count in counts.items() if _COMMON <= count < len(photos)]
        self.classes = sorted(how.classes or frequent)
        if not self.classes:
            raise UsageError(f"task attributes: no listing's attribute has {_COMMON} photos; name some: train.classes")
        enough(self.classes, counts, how)

    def top(self, inputs: int, how: Train) -> Head:
        """A score for each."""
        return Head("logits", inputs, tuple(how.hidden), len(self.classes), how.activation)

    def targets(self, data: Data) -> torch.Tensor:
        """float32 (photos, attributes) of 0 and 1."""
        told = [{f"{key}={value}" for key, value in one.attributes} for one in data.shown]
        return torch.tensor([[float(name in each) for name in self.classes] for each in told])

    def loss(self, targets: torch.Tensor, how: Train, ranks: Workers) -> Loss:
        """Binary cross-entropy of each."""
        ones = targets.sum(0).clamp(min=1)
        return losses.binary(((len(targets) - ones) / ones).to(ranks.device) if how.balance else None)

    def figures(self, found: Predictions) -> dict[str, Figure]:
        """Mean average precision, and the share of attributes that are told right."""
        return model_metrics.attributes(found.asked, found.truth.astype(bool))

    def value(self, found: Predictions) -> float:
        """Mean average precision."""
        return float(model_metrics.average_precisions(found.asked, found.truth.astype(bool)).mean())
