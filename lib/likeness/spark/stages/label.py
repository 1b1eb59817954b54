"""Label: class scores in, rows of `labels` out: what a network takes each photo for.   [pyspark]"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyspark.sql import functions as F

from likeness.models.imagenet_classifier import top_labels
from likeness.spark.arrow_map import Work, arrow_map
from likeness.spark.run import Run
from likeness.storage.run_facts import LabelFacts
from likeness.storage.tables import FEATURES, LABELS

_KEPT, _SHOWN = 5, 20


def label(run: Run, names: Sequence[str]) -> LabelFacts:
    """Labels every photo that has class scores in the run's space and no labels.

    Args:
        run: the run; its facts get the most frequent labels.
        names: of the classes, in the order of the scores.
    """
    tables, space = run.tables, run.space.id
    with run.stage(LabelFacts) as facts:
        mine = F.col("space") == space
        there = tables.read(LABELS).where(mine).select("image_id")
        lacking = tables.read(FEATURES).where(mine).join(there, "image_id", "left_anti").select("image_id", "vector")
        facts.labelled = tables.append(LABELS, arrow_map(lacking, _worker(space, names), LABELS.arrow()))
        firsts = tables.read(LABELS).where(mine).groupBy(F.col("labels")[0].alias("label")).count()
        most = firsts.orderBy(F.desc("count"), "label").limit(_SHOWN).collect()
        facts.labels = {row["label"]: row["count"] for row in most}
    return facts


def _worker(space: str, names: Sequence[str]) -> Work:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            scores = batch.column("vector").flatten().to_numpy().reshape(-1, len(names))
            found = [top_labels(row, names, _KEPT) for row in scores]
            columns = {
                "image_id": batch.column("image_id"),
                "space": pa.array([space] * len(found)),
                "labels": pa.array([[one.name for one in each] for each in found], pa.list_(pa.string())),
                "probabilities": pa.array(
                    [[one.probability for one in each] for each in found], pa.list_(pa.float32())
                ),
            }
            yield pa.RecordBatch.from_pydict(columns)

    return work
