"""Doubts: listings whose category a model strongly doubts, of vectors in the run's space.   [pyspark]"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from likeness.core.errors import LikenessError
from likeness.models.category_classifier import CategoryClassifier, category_model_card, load_category_classifier
from likeness.spark.arrow_map import Work, arrow_map
from likeness.spark.run import Run
from likeness.storage.run_facts import SuspectLabel, SuspectLabelsFacts
from likeness.storage.tables import FEATURES, LISTINGS

_SURE, _UNLIKELY, _SHOWN = 0.8, 0.05, 50
_COLUMNS = ("image_id", "product_id", "uri", "category", "predicted", "probability")
_RESULT = pa.schema([(name, pa.string()) for name in _COLUMNS[:-1]] + [("probability", pa.float64())])


def doubts(run: Run) -> None:
    """Asks the category model in service about every active listing; the run's facts get what it doubts most.

    Without a model on vectors of the run's space nothing is done; nor where neither tables nor model changed.
    """
    try:
        card = category_model_card(run.settings)
        if card is None:
            return
        before = run.last_facts(SuspectLabelsFacts, FEATURES, LISTINGS)
        if before and before.model == card.version:
            with run.stage(SuspectLabelsFacts) as facts:
                facts.model, facts.suspects, facts.worst = before.model, before.suspects, before.worst
            return
        model = load_category_classifier(run.settings, run.space.id, photos=False)
    except LikenessError as error:  # what is published is no worse for it
        run.say(f"doubts: {error}")
        return
    if model is None:
        return
    with run.stage(SuspectLabelsFacts) as facts:
        known = F.col("category").isin(list(model.card.classes))
        listings = run.tables.read(LISTINGS).where("active").where(known)
        mine = run.tables.read(FEATURES).where(F.col("space") == run.space.id).select("image_id", "vector")
        asked = listings.select("image_id", "product_id", "uri", "category").join(mine, "image_id")
        found = arrow_map(asked, _worker(model), _RESULT).orderBy(F.desc("probability"), "image_id").collect()
        facts.model, facts.suspects = model.card.version, len(found)
        facts.worst = [SuspectLabel(**row.asDict()) for row in found[:_SHOWN]]


def _worker(model: CategoryClassifier) -> Work:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                yield pa.RecordBatch.from_pylist(list(_doubted(model, batch)), schema=_RESULT)

    return work


def _doubted(model: CategoryClassifier, batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows whose own category is unlikely, and another is all but sure."""
    vectors = batch.column("vector").flatten().to_numpy().reshape(batch.num_rows, -1)
    probabilities = model.of_vectors(vectors)
    assert probabilities is not None
    classes = model.card.classes
    own = np.array([classes.index(name) for name in batch.column("category").to_pylist()])
    best = probabilities.argmax(axis=1)
    doubted = (probabilities.max(axis=1) >= _SURE) & (probabilities[np.arange(len(own)), own] < _UNLIKELY)
    told = batch.select(list(_COLUMNS[:4])).to_pylist()
    for row in np.flatnonzero(doubted).tolist():
        yield {**told[row], "predicted": classes[best[row]], "probability": float(probabilities[row].max())}
