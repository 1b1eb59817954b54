"""Suspect labels: listings whose category the category model finds unlikely.   [pyspark]"""

import functools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from likeness.core.errors import LikenessError
from likeness.models.category_classifier import CategoryClassifier, category_model_card, load_category_classifier
from likeness.spark.arrow_map import arrow_map
from likeness.spark.run import Run
from likeness.storage.run_facts import SuspectLabel, SuspectLabelsFacts
from likeness.storage.tables import FEATURES, LISTINGS

_CONFIDENT, _UNLIKELY, _WORST = 0.8, 0.05, 50
_LISTING = ("image_id", "product_id", "uri", "category")
_RESULT = pa.schema(dict.fromkeys((*_LISTING, "predicted"), pa.string()) | {"probability": pa.float64()})


def find_suspect_labels(run: Run) -> None:
    """Compares every active listing with the category model in service; the run's facts get the worst suspects.

    Does nothing without a model on vectors of the run's space, and repeats the facts of the last run if neither tables
    nor model have changed.
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
    except LikenessError as error:  # the published build is complete without this check
        run.say(f"suspect labels: not checked: {error}")
        return
    if model is None:
        return
    with run.stage(SuspectLabelsFacts) as facts:
        learned = F.col("category").isin(list(model.card.classes))
        listings = run.tables.read(LISTINGS).where("active").where(learned)
        vectors = run.tables.read(FEATURES).where(F.col("space") == run.space.id).select("image_id", "vector")
        rows = listings.select(*_LISTING).join(vectors, "image_id")
        unlikely = arrow_map(rows, functools.partial(_check, model), _RESULT)
        suspects = unlikely.orderBy(F.desc("probability"), "image_id").collect()
        facts.model, facts.suspects = model.card.version, len(suspects)
        facts.worst = [SuspectLabel(**row.asDict()) for row in suspects[:_WORST]]


def _check(model: CategoryClassifier, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if batch.num_rows:
            yield pa.RecordBatch.from_pylist([dict(suspect) for suspect in _suspects(model, batch)], schema=_RESULT)


def _suspects(model: CategoryClassifier, batch: pa.RecordBatch) -> Iterator[SuspectLabel]:
    """The rows whose own category is unlikely while another one is nearly certain."""
    vectors = batch.column("vector").flatten().to_numpy().reshape(batch.num_rows, -1)
    probabilities = model.predict_vectors(vectors)
    assert probabilities is not None
    classes = model.card.classes
    own = np.array([classes.index(name) for name in batch.column("category").to_pylist()])
    best = probabilities.argmax(axis=1)
    suspect = (probabilities.max(axis=1) >= _CONFIDENT) & (probabilities[np.arange(len(own)), own] < _UNLIKELY)
    listings = batch.select(list(_LISTING)).to_pylist()
    for row in np.flatnonzero(suspect).tolist():
        probability = float(probabilities[row].max())
        yield SuspectLabel(**listings[row], predicted=classes[best[row]], probability=probability)
