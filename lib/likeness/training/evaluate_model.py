"""Evaluation of a trained model: a version and an evaluation set in, metrics out.   [torch]"""

import os
from collections.abc import Sequence

import numpy as np

from likeness.catalog.annotations import annotations
from likeness.core.errors import DataError
from likeness.core.settings import Settings, Train
from likeness.evaluation.evaluation_sets import EvaluationSet, EvaluationSets, exclude
from likeness.evaluation.model_metrics import as_metrics
from likeness.models.backbones import Space
from likeness.models.extractor import Extractor
from likeness.models.model_card import Metric, ModelCard
from likeness.models.runtimes import local_machine, open_runtime
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS
from likeness.training.data import load_training_data
from likeness.training.tasks import TASKS
from likeness.training.tasks.task import Predictions

_MAX_NAMED = 3


def measured_by_neighbours(card: ModelCard) -> bool:
    """Whether a version is measured by nearest neighbours, so that the catalogue's vectors must be extracted first."""
    return TASKS[card.task].uses_gallery


def evaluate_model(
    settings: Settings, card: ModelCard, evaluation_set: EvaluationSet, space: Space
) -> dict[str, Metric]:
    """Measures a version on an evaluation set; neighbours are searched among all other listed photos.

    Args:
        settings: of the root.
        card: of the version.
        evaluation_set: the photos to measure on.
        space: of the version's vectors.

    Raises:
        DataError: the version was trained on photos of the set, or vectors are missing.
    """
    tables = TableReader(settings)
    photos = annotations(tables)
    _refuse_trained_on(settings, tables, card, evaluation_set)
    evaluation = {key: photos.get(key, annotation) for key, annotation in evaluation_set.photos.items()}
    train = Train.model_validate(card.settings).model_copy(update={"classes": list(card.classes), "least": 0})
    vectors_space = space.id if measured_by_neighbours(card) else ""
    data = load_training_data(tables, train, {}, vectors_space, exclude(photos, evaluation_set), evaluation)
    task = TASKS[card.task](data, train)
    data = data.filter([task.is_usable(annotation) for annotation in data.annotations])
    rows = data.evaluation_rows
    if measured_by_neighbours(card):
        outputs, gallery_outputs = (data.vectors[part] for part in (rows, data.train_rows))
        annotated = data.annotations[data.train_count :]
        predictions = Predictions(outputs, annotated, rows[:0], gallery_outputs, data.train_annotations)
    else:
        targets = task.targets(data).numpy()[rows]
        outputs, used = _outputs(settings, space, [data.image_ids[row] for row in rows.tolist()])
        annotated = [data.annotations[row] for row in rows[used].tolist()]
        predictions = Predictions(outputs, annotated, targets[used], outputs[:0], [])
    return as_metrics(task.metrics(predictions))


def _refuse_trained_on(settings: Settings, tables: TableReader, card: ModelCard, evaluation_set: EvaluationSet) -> None:
    held_out = EvaluationSets(settings.root).find(card.evaluation)
    assert held_out
    trained_on = exclude(annotations(tables, card.snapshots[LISTINGS.name]), held_out)
    common = sorted(evaluation_set.photos.keys() & trained_on.keys())
    if common:
        raise DataError(
            f"model {card.name} {card.version} was trained on {len(common)} of the {len(evaluation_set.photos)} photos "
            f"of evaluation set {evaluation_set.id} ({', '.join(common[:_MAX_NAMED])}); use a set of other photos"
        )


def _outputs(settings: Settings, space: Space, image_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """A network's outputs for photos of the images table, and the rows of those that could be used, int64 (n,)."""
    runtime = open_runtime(space, settings.extract.runtime, local_machine(settings, os.cpu_count() or 1))
    extractor = Extractor(space, runtime, settings.extract, settings.limits)
    vectors = {
        key: vector
        for batch in extractor.run(TableReader(settings).stream(frozenset(image_ids)))
        for key, vector in zip(batch.keys, batch.vectors, strict=True)
    }
    if not vectors:
        raise DataError(f"none of the {len(image_ids)} photos to measure on can be used; see `likeness failures list`")
    rows = np.array([row for row, key in enumerate(image_ids) if key in vectors], np.int64)
    return np.stack([vectors[image_ids[row]] for row in rows.tolist()]), rows
