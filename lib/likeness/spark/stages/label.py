"""Label: class scores of photos in, rows of `labels` with their most probable classes out.   [pyspark]"""

import functools
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyspark.sql import functions as F

from likeness.models.imagenet_classifier import top_labels
from likeness.spark.arrow_map import arrow_map
from likeness.spark.run import Run
from likeness.storage.run_facts import LabelFacts
from likeness.storage.tables import FEATURES, LABELS

_LABELS_PER_PHOTO, _LABELS_IN_FACTS = 5, 20


def label(run: Run, names: Sequence[str]) -> LabelFacts:
    """Labels every photo that has class scores in the run's space and no labels.

    Args:
        run: the run; its facts get the most frequent labels.
        names: the class names, in the order of the scores.
    """
    tables, space = run.tables, run.space.id
    with run.stage(LabelFacts) as facts:
        in_space = F.col("space") == space
        labelled = tables.read(LABELS).where(in_space).select("image_id")
        scores = tables.read(FEATURES).where(in_space).join(labelled, "image_id", "left_anti")
        rows = arrow_map(scores.select("image_id", "vector"), functools.partial(_label, space, names), LABELS.arrow())
        facts.labelled = tables.append(LABELS, rows)
        firsts = tables.read(LABELS).where(in_space).groupBy(F.col("labels")[0].alias("label")).count()
        most = firsts.orderBy(F.desc("count"), "label").limit(_LABELS_IN_FACTS).collect()
        facts.labels = {row["label"]: row["count"] for row in most}
    return facts


def _label(space: str, names: Sequence[str], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        scores = batch.column("vector").flatten().to_numpy().reshape(-1, len(names))
        labels = [top_labels(row, names, _LABELS_PER_PHOTO) for row in scores]
        columns = {
            "image_id": batch.column("image_id"),
            "space": [space] * len(labels),
            "labels": [[label.name for label in top] for top in labels],
            "probabilities": [[label.probability for label in top] for top in labels],
        }
        yield pa.RecordBatch.from_pydict(columns, schema=LABELS.arrow())
