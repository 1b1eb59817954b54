"""Build of shards by Spark tasks: items with their listings and a shard plan in, audited shards out.   [pyspark]"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from likeness.core.formatting import pluralize
from likeness.index.build import BuildSpec, build_shard, refuse_memory
from likeness.index.manifest import Shard
from likeness.index.shard_plan import PlannedShard, assign_tasks
from likeness.spark.arrow_map import arrow_map, rows_of
from likeness.spark.progress import track_tasks
from likeness.spark.run import Run
from likeness.storage.data_files import vectors
from likeness.storage.items import WHOLE_PHOTO
from likeness.storage.tables import FEATURES

SHOWN = "shown array<struct<category:string,uri:string,products:array<string>>>"


def group_by_item(members: DataFrame, *keys: str) -> DataFrame:
    """Collects the rows of each item: its categories, URIs and products become the list `shown`, sorted by category.

    Args:
        members: keys, category, image_id, region, uri, products.
        keys: further columns to group by.

    Returns:
        keys, image_id, region, shown.
    """
    listings = F.array_sort(F.collect_list(F.struct("category", "uri", "products")))
    return members.groupBy(*keys, "image_id", "region").agg(listings.alias("shown"))


def assign_shards(members: DataFrame, planned: Iterable[PlannedShard]) -> DataFrame:
    """Says which shard of a whole build holds each item, by its category and its image_id.

    An item of several categories is in a shard for each of them, or in one that holds several.

    Args:
        members: category, image_id, region, uri, products.
        planned: the shards of the build.

    Returns:
        shard, image_id, region, shown; as of `group_by_item`.
    """
    places = [
        {"category": name, "first": shard.number, "parts": shard.parts}
        for shard in planned
        if shard.part == 0
        for name in shard.categories
    ]
    table = members.sparkSession.createDataFrame(pa.Table.from_pylist(places))
    joined = members.join(F.broadcast(table), "category")
    return group_by_item(joined.withColumn("shard", (F.col("first") + _part(F.col("parts"))).cast("int")), "shard")


def split_delta(rows: DataFrame, first: int, parts: int) -> DataFrame:
    """Adds the column `shard` to the rows of a delta, a row an item: one of `parts` shards, numbered from `first`."""
    return rows.withColumn("shard", (F.lit(first) + _part(F.lit(parts))).cast("int"))


def _part(parts: Column) -> Column:
    """`shard_plan.part_of` as a Spark column."""
    prefix = F.conv(F.substring("image_id", 1, 8), 16, 10).cast("long")
    return F.floor(prefix * parts / F.lit(2**32))


def _key() -> Column:
    """`Item.key` as a Spark column."""
    whole = F.col("region") == WHOLE_PHOTO
    return F.when(whole, F.col("image_id")).otherwise(F.concat_ws("/", "image_id", "region"))


def _digest() -> Column:
    """`ids.digest` as a Spark column."""
    return F.when(F.col("region") == WHOLE_PHOTO, F.col("image_id")).otherwise(F.sha2(_key(), 256))


def build(
    run: Run, rows: DataFrame, planned: Mapping[PlannedShard, int], files: Sequence[str], spec: BuildSpec
) -> list[Shard]:
    """Builds shards.

    Args:
        run: the run that builds.
        rows: shard, image_id, region, shown.
        planned: the shards, and about how many rows each has.
        files: the data files of `features` that hold the vectors.
        spec: settings and place of the build.

    Raises:
        UsageError: they would take more memory than the settings allow.
    """
    sizes = list(planned.values())
    refuse_memory(sizes, spec)
    places = assign_tasks(sizes, run.tables.tasks)
    numbers = pa.array([shard.number for shard in planned], pa.int32())
    task = run.tables.spark.createDataFrame(pa.table({"shard": numbers, "task": pa.array(places, pa.int32())}))
    ordered = (
        rows.withColumn("key", _key())
        .join(_vectors(run, spec.space, files).hint("merge"), "key")  # else Spark holds one side in memory
        .join(F.broadcast(task), "shard")
        .repartitionById(max(places) + 1, "task")
        .sortWithinPartitions("shard", _digest())
        .select("shard", "image_id", "region", "shown", "vector")
    )
    with run.reporter.bar("index", len(planned), "shards") as bar, track_tasks(run, bar, 0, len(planned)):
        build_all = functools.partial(_build, {shard.number: shard for shard in planned}, spec)
        records = arrow_map(ordered, build_all, "record string").collect()
    run.say(f"index: {pluralize(len(records), 'shard')} written")
    return sorted((Shard.model_validate_json(row.record) for row in records), key=lambda shard: shard.number)


def files_of(run: Run, space: str, snapshot: int, image_ids: DataFrame | None = None) -> list[str]:
    """The data files of `features` that hold vectors of the space: all, or those of some images."""
    if image_ids is None:
        return run.tables.files_of(FEATURES, "space", space, snapshot)
    rows = run.tables.read(FEATURES, snapshot).where(F.col("space") == space).select("image_id", "_file")
    files = rows.join(image_ids.select("image_id"), "image_id", "left_semi").select("_file").distinct()
    return sorted(row["_file"] for row in files.collect())


def _vectors(run: Run, space: str, files: Sequence[str]) -> DataFrame:
    """(key of the item, vector as little-endian float32) of data files: Spark moves bytes faster than lists."""

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for file in rows_of(batches):
            for keys, rows in vectors(file["uri"], space):
                lists = pa.array([row.tobytes() for row in rows], pa.binary())
                yield pa.RecordBatch.from_arrays([pa.array(keys), lists], names=["key", "vector"])

    named = pa.table({"uri": pa.array(files, pa.string())})
    return arrow_map(run.tables.spread(named), read, "key string, vector binary")


def _build(
    planned: Mapping[int, PlannedShard], spec: BuildSpec, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Builds the shards of one task, one after the other, from a stream of rows sorted by shard."""
    for number, rows in itertools.groupby(_by_shard(batches), key=itemgetter(0)):
        shard = build_shard(planned[number], (batch for _, batch in rows), spec)
        yield pa.RecordBatch.from_pydict({"record": [shard.model_dump_json()]})


def _by_shard(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts batches where the shard changes."""
    for batch in batches:
        numbers = batch.column("shard").to_numpy()
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        for start, end in itertools.pairwise([*starts, len(numbers)]):
            yield int(numbers[start]), batch.slice(start, end - start)
