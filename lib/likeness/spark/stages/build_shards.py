"""Shards built by tasks: members of a snapshot and a plan in, audited shards of a build out.   [pyspark]"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness.core.formatting import pluralize
from likeness.index.build import BuildSpec, build_shard, refuse_memory
from likeness.index.manifest import Shard
from likeness.index.shard_plan import PlannedShard, tasks
from likeness.spark.arrow_map import arrow_map
from likeness.spark.progress import watched
from likeness.spark.run import Run
from likeness.storage.table_reader import vectors
from likeness.storage.tables import FEATURES

SHOWN = "shown array<struct<category:string,uri:string,products:array<string>>>"


def shown(pairs: DataFrame, *keys: str) -> DataFrame:
    """(keys, image_id, shown) of (keys, category, image_id, uri, products): a row an image."""
    facts = F.array_sort(F.collect_list(F.struct("category", "uri", "products")))
    return pairs.groupBy(*keys, "image_id").agg(facts.alias("shown"))


def placed(members: DataFrame, planned: Sequence[PlannedShard]) -> DataFrame:
    """(shard, image_id, shown) of (category, image_id, uri, products), as a whole build's plan says."""
    firsts = [(name, shard) for shard in planned if shard.part == 0 for name in shard.categories]
    places = pa.table(
        {
            "category": [name for name, _ in firsts],
            "first": [shard.number for _, shard in firsts],
            "parts": [shard.parts for _, shard in firsts],
        }
    )
    joined = members.join(F.broadcast(members.sparkSession.createDataFrame(places)), "category")
    return shown(joined.withColumn("shard", (F.col("first") + _part(F.col("parts"))).cast("int")), "shard")


def split(rows: DataFrame, planned: Sequence[PlannedShard]) -> DataFrame:
    """(shard, image_id, shown) of (image_id, shown), as a delta's plan says."""
    return rows.withColumn("shard", (F.lit(planned[0].number) + _part(F.lit(len(planned)))).cast("int"))


def _part(parts: Any) -> Any:
    prefix = F.conv(F.substring("image_id", 1, 8), 16, 10).cast("long")
    return F.floor(prefix * parts / F.lit(2**32))


@dataclass(frozen=True)
class Work:
    """What is to be built.

    `rows` are (shard, image_id, shown) of the `planned` shards, about `sizes` each; `files` are the data files of
    `features` that hold their vectors.
    """

    rows: DataFrame
    planned: Sequence[PlannedShard]
    sizes: Sequence[int]
    files: Sequence[str]


def build(run: Run, work: Work, order: BuildSpec) -> list[Shard]:
    """Builds shards; `order` says how, and where.

    Raises:
        UsageError: they would take more memory than the settings give.
    """
    refuse_memory(work.sizes, order)
    planned, spark = work.planned, run.tables.spark
    places = tasks(work.sizes, run.tables.tasks)
    numbers = pa.array([shard.number for shard in planned], pa.int32())
    task = spark.createDataFrame(pa.table({"shard": numbers, "task": pa.array(places, pa.int32())}))
    ordered = (
        work.rows.join(_vectors(run, work.files).hint("merge"), "image_id")  # Spark would hold one side in memory
        .join(F.broadcast(task), "shard")
        .repartitionById(max(places) + 1, "task")
        .sortWithinPartitions("shard", "image_id")
        .select("shard", "image_id", "shown", "vector")
    )
    with run.reporter.bar("index", len(planned), "shards") as bar, watched(run, bar, 0, len(planned)):
        worker = _worker({shard.number: shard for shard in planned}, order)
        records = arrow_map(ordered, worker, "record string").collect()
    run.say(f"index: {pluralize(len(records), 'shard')} written")
    return sorted((Shard.model_validate_json(row.record) for row in records), key=lambda shard: shard.number)


def files_of(run: Run, snapshot: int, image_ids: DataFrame | None = None) -> list[str]:
    """The data files of `features` that hold vectors of the space: all, or those of some images."""
    if image_ids is None:
        return run.tables.files_of(FEATURES, "space", run.space.id, snapshot)
    rows = run.tables.read(FEATURES, snapshot).where(F.col("space") == run.space.id).select("image_id", "_file")
    found = rows.join(image_ids.select("image_id"), "image_id", "left_semi").select("_file").distinct()
    return sorted(row["_file"] for row in found.collect())


def _vectors(run: Run, files: Sequence[str]) -> DataFrame:
    """(image_id, vector as little-endian float32) of data files: as bytes, which Spark moves without a look inside."""
    space = run.space.id

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for uri in batch.column("uri").to_pylist():
                for keys, rows in vectors(uri, space):
                    lists = pa.array([row.tobytes() for row in rows], pa.binary())
                    yield pa.RecordBatch.from_arrays([pa.array(keys), lists], names=["image_id", "vector"])

    named = pa.table({"uri": pa.array(files, pa.string())})
    return arrow_map(run.tables.spread(named), read, "image_id string, vector binary")


def _worker(planned: Mapping[int, PlannedShard], order: BuildSpec) -> Any:
    """Builds the shards of one task, each as its rows stream by."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, rows in itertools.groupby(_by_shard(batches), key=lambda piece: piece[0]):
            shard = build_shard(planned[number], (batch for _, batch in rows), order)
            yield pa.RecordBatch.from_pydict({"record": [shard.model_dump_json()]})

    return work


def _by_shard(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts batches where the shard changes."""
    for batch in batches:
        numbers = batch.column("shard").to_pylist()
        start = 0
        for number, run in itertools.groupby(numbers):
            length = sum(1 for _ in run)
            yield number, batch.slice(start, length)
            start += length
