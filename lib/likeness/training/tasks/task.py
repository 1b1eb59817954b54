"""What a task is: photos with what their listings say in; targets, a loss, a top and figures out.   [torch]"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from likeness.catalog.annotations import Annotation
from likeness.catalog.samples import Labels
from likeness.core.errors import DataError
from likeness.core.settings import Train
from likeness.core.statistics import Figure
from likeness.evaluation import model_metrics
from likeness.models.backbones.heads import Head
from likeness.training.data import Data
from likeness.training.distributed import Workers
from likeness.training.losses import Loss

_TOLD = 5


@dataclass(frozen=True)
class Predictions:
    """What a network gives for the photos that it is measured on, and for those that it has learned from.

    float32 (photos, outputs) each; what listings say of the same photos, and what it ought to give for those asked.
    """

    asked: np.ndarray
    asked_of: Sequence[Annotation]
    truth: np.ndarray
    known: np.ndarray
    known_of: Sequence[Annotation]


class Task(ABC):
    """One thing that can be learned, from some photos."""

    classes: Sequence[str] = ()
    """What it tells apart; empty where that is nothing with a name."""
    candidates: Sequence[Mapping[str, Any]] = ()
    """What cross-validation chooses from: settings of `train` that take the place of the given ones."""
    gallery = False
    """Whether it is measured by neighbours among the photos that were learned from."""
    topped = True
    """Whether what is wanted in the end is what the top gives; else it is the layer below."""

    @abstractmethod
    def __init__(self, data: Data, how: Train) -> None:
        """Looks at the data, of which the first `learned` photos are learned from."""

    def usable(self, one: Annotation) -> bool:
        """Whether a photo can be learned from, or be measured on."""
        return True

    @abstractmethod
    def top(self, inputs: int, how: Train) -> Head:
        """What is put on a vector of so many numbers."""

    @abstractmethod
    def targets(self, data: Data) -> torch.Tensor:
        """What the network ought to give, by photo."""

    @abstractmethod
    def loss(self, targets: torch.Tensor, how: Train, ranks: Workers) -> Loss:
        """What is lowered."""

    @abstractmethod
    def figures(self, found: Predictions) -> dict[str, Figure]:
        """How good it is; the first is what a promotion goes by."""

    @abstractmethod
    def value(self, found: Predictions) -> float:
        """The first of the figures, higher is better, without an interval: it is wanted after each epoch."""

    def temperature(self, outputs: np.ndarray, truth: np.ndarray) -> float:
        """By what the outputs, float32 (n, outputs), are divided so that their softmax is a probability; 1: by none."""
        return 1.0

    def closer(self, found: Predictions, temperature: float, image_ids: Sequence[str]) -> dict[str, Any]:
        """What more the report tells, as JSON."""
        return {}


class Neighbourly(Task):
    """A vector, measured by its neighbours: P@10 and P@1 of the photos asked among those that were learned from."""

    gallery = True

    def figures(self, found: Predictions) -> dict[str, Figure]:
        """P@10, P@1."""
        return model_metrics.neighbours(found.asked, _labels(found.asked_of), found.known, _labels(found.known_of))

    def value(self, found: Predictions) -> float:
        """P@10."""
        told = model_metrics.agreeing(found.asked, _labels(found.asked_of), found.known, _labels(found.known_of))
        return float(told[:, 0].mean())


def enough(classes: Sequence[str], counts: Mapping[str, int], how: Train) -> None:
    """Refuses classes that cannot be learned.

    Raises:
        DataError: there is one only, or one has too few photos.
    """
    if len(classes) < 2:
        raise DataError(f"there is nothing to tell apart: {', '.join(classes) or 'no class'} alone; ingest more")
    few = [f"{name!r} has {counts.get(name, 0)}" for name in classes if counts.get(name, 0) < how.least]
    if few:
        told = ", ".join(few[:_TOLD]) + (f" and {len(few) - _TOLD} more" if len(few) > _TOLD else "")
        raise DataError(
            f"a class needs train.least = {how.least} photos to learn from: {told}. "
            "Find more photos of it, or name the classes to learn with train.classes"
        )


def _labels(photos: Sequence[Annotation]) -> Labels:
    return Labels([one.categories for one in photos], [one.products for one in photos])
