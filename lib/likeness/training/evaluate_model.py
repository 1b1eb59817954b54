"""A model measured anew: a version and an evaluation set that it has never seen in, figures out.   [torch]"""

import os
from collections.abc import Sequence

import numpy as np

from likeness.catalog.annotations import annotations
from likeness.core.errors import DataError
from likeness.core.settings import Settings, Train
from likeness.evaluation.evaluation_sets import EvaluationSet, EvaluationSets, apart
from likeness.evaluation.model_metrics import as_metrics
from likeness.models.backbones import Space
from likeness.models.extractor import Extractor
from likeness.models.model_card import Metric, ModelCard
from likeness.models.runtimes import machine, open_runtime
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS
from likeness.training.data import gathered
from likeness.training.tasks import TASKS
from likeness.training.tasks.task import Predictions

_TOLD = 3


def by_neighbours(card: ModelCard) -> bool:
    """Whether a version is measured by its vectors of the whole catalogue, which must have been extracted."""
    return TASKS[card.task].gallery


def examined(settings: Settings, card: ModelCard, held: EvaluationSet, space: Space) -> dict[str, Metric]:
    """What a version is worth on an evaluation set; neighbours are looked for among all other listed photos.

    Args:
        settings: of the root.
        card: of the version.
        held: the evaluation set.
        space: that the version gives.

    Raises:
        DataError: the version has learned from photos of the set, or vectors are lacking.
    """
    warehouse = TableReader(settings)
    photos = annotations(warehouse)
    _refuse_known(settings, warehouse, card, held)
    free, asked = apart(photos, held), {key: photos.get(key, one) for key, one in held.photos.items()}
    how = Train.model_validate(card.settings).model_copy(update={"classes": list(card.classes), "least": 0})
    data = gathered(warehouse, how, {}, space.id if by_neighbours(card) else "", free, asked)
    task = TASKS[card.task](data, how)
    data = data.kept([task.usable(one) for one in data.shown])
    if by_neighbours(card):
        rows = (data.asked, data.rows)
        shown = [[data.shown[row] for row in part.tolist()] for part in rows]
        return as_metrics(
            task.figures(Predictions(data.vectors[rows[0]], shown[0], rows[0][:0], data.vectors[rows[1]], shown[1]))
        )
    truth = task.targets(data).numpy()[data.asked]
    given, there = _outputs(settings, space, [data.image_ids[row] for row in data.asked.tolist()])
    told = [data.shown[row] for row in data.asked[there].tolist()]
    return as_metrics(task.figures(Predictions(given, told, truth[there], given[:0], [])))


def _refuse_known(settings: Settings, warehouse: TableReader, card: ModelCard, held: EvaluationSet) -> None:
    before = EvaluationSets(settings.root).find(card.evaluation)
    assert before
    learned = apart(annotations(warehouse, card.snapshots[LISTINGS.name]), before)
    both = sorted(held.photos.keys() & learned.keys())
    if both:
        raise DataError(
            f"model {card.name} {card.version} has learned from {len(both)} of the {len(held.photos)} photos of "
            f"evaluation set {held.id} ({', '.join(both[:_TOLD])}); measure it on photos that it has never seen"
        )


def _outputs(settings: Settings, space: Space, image_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What a network gives for photos of the images table, and which of them have something, as rows, int64 (n,)."""
    runtime = open_runtime(space, settings.extract.runtime, machine(settings, os.cpu_count() or 1))
    extractor = Extractor(space, runtime, settings.extract, settings.limits)
    found = {
        key: vector
        for batch in extractor.run(TableReader(settings).stream(frozenset(image_ids)))
        for key, vector in zip(batch.keys, batch.vectors, strict=True)
    }
    if not found:
        raise DataError(f"none of the {len(image_ids)} photos to measure on can be used; see `likeness failures list`")
    there = np.array([row for row, key in enumerate(image_ids) if key in found], np.int64)
    return np.stack([found[image_ids[row]] for row in there.tolist()]), there
