"""The interface of training tasks: annotated photos in; targets, a loss, a head and metrics out.   [torch]"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from likeness.catalog.annotations import Annotation
from likeness.catalog.samples import Labels
from likeness.core.errors import DataError
from likeness.core.settings import Train
from likeness.core.statistics import Figure
from likeness.evaluation import model_metrics
from likeness.models.backbones.heads import Head
from likeness.models.model_card import TrainSettings
from likeness.models.training_report import ErrorAnalysis
from likeness.training.data import TrainingData
from likeness.training.distributed import Workers
from likeness.training.losses import Loss

_MAX_NAMED = 5


@dataclass(frozen=True)
class Predictions:
    """A network's outputs for photos, and the truth about them.

    `outputs` are float32 (photos, outputs). `gallery_outputs` are those of the photos among which a task searches for
    neighbours; empty for other tasks.
    """

    outputs: np.ndarray
    annotations: Sequence[Annotation]
    targets: np.ndarray
    gallery_outputs: np.ndarray
    gallery_annotations: Sequence[Annotation]


class Task(ABC):
    """A training task on the photos of some data."""

    classes: Sequence[str] = ()
    """Names of the outputs; empty where they have none."""
    candidates: Sequence[TrainSettings] = ()
    """Candidates for cross-validation: settings of `train` that override the given ones."""
    uses_gallery = False
    """Whether the metrics come from nearest neighbours among the training photos."""
    keeps_head = True
    """Whether the head is a part of the model; else it is dropped after training."""

    @abstractmethod
    def __init__(self, data: TrainingData, settings: Train) -> None:
        """Finds the classes, or the dimension of the targets, in the training photos."""

    def is_usable(self, annotation: Annotation) -> bool:
        """Whether a photo has what the task needs."""
        return True

    @abstractmethod
    def head(self, inputs: int, settings: Train) -> Head:
        """The head on vectors of dimension `inputs`."""

    @abstractmethod
    def targets(self, data: TrainingData) -> torch.Tensor:
        """The targets of all photos, by row."""

    @abstractmethod
    def loss(self, targets: torch.Tensor, settings: Train, workers: Workers) -> Loss:
        """The loss function; `targets` are those of the training photos, for class weights."""

    @abstractmethod
    def metrics(self, predictions: Predictions) -> dict[str, Figure]:
        """The metrics with confidence intervals; the first one decides on a promotion."""

    @abstractmethod
    def main_metric(self, predictions: Predictions) -> float:
        """The first metric without its interval, higher is better; for validation after each epoch."""

    def temperature(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """The temperature that calibrates outputs, float32 (n, outputs), as logits; 1 for other outputs."""
        return 1.0

    def error_analysis(
        self, predictions: Predictions, temperature: float, image_ids: Sequence[str]
    ) -> ErrorAnalysis | None:
        """Where a classifier errs, for the report; None for other tasks."""
        return None


class EmbeddingTask(Task):
    """A task whose outputs are embeddings, measured by P@10 and P@1 among the training photos."""

    uses_gallery = True

    def metrics(self, predictions: Predictions) -> dict[str, Figure]:
        """P@10 and P@1."""
        return model_metrics.neighbours(*_embeddings_and_labels(predictions))

    def main_metric(self, predictions: Predictions) -> float:
        """P@10."""
        precision = model_metrics.precisions(*_embeddings_and_labels(predictions))
        return float(precision[:, 0].mean())


def require_photos(classes: Sequence[str], counts: Mapping[str, int], settings: Train) -> None:
    """Checks that there are several classes with enough photos each.

    Raises:
        DataError: there is only one class, or a class has too few photos.
    """
    if len(classes) < 2:
        raise DataError(f"there is nothing to tell apart: {', '.join(classes) or 'no class'} alone; ingest more")
    few = [f"{name!r} has {counts.get(name, 0)}" for name in classes if counts.get(name, 0) < settings.least]
    if few:
        named = ", ".join(few[:_MAX_NAMED]) + (f" and {len(few) - _MAX_NAMED} more" if len(few) > _MAX_NAMED else "")
        raise DataError(
            f"a class needs train.least = {settings.least} photos to train on: {named}. "
            "Ingest more photos of it, or name the classes to train with train.classes"
        )


def _embeddings_and_labels(batch: Predictions) -> tuple[np.ndarray, Labels, np.ndarray, Labels]:
    return batch.outputs, _labels(batch.annotations), batch.gallery_outputs, _labels(batch.gallery_annotations)


def _labels(annotations: Sequence[Annotation]) -> Labels:
    return Labels([photo.categories for photo in annotations], [photo.products for photo in annotations])
