"""Comparison of a build with the tables: its id maps and the tables' members in, the difference out.   [pyspark]

The content of a build is read from its id maps and tombstones, so the comparison is right whatever happened between:
missed nights, a rollback, a compaction. What follows from the difference is decided in `likeness.index.incremental`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness import storage
from likeness.index import tombstones
from likeness.index.builds import Builds
from likeness.index.ids import read_id_map
from likeness.index.incremental import NOTHING, TableChanges, live_rows
from likeness.index.manifest import Manifest
from likeness.spark.arrow_map import arrow_map, rows_of
from likeness.spark.run import Run
from likeness.spark.stages.build_shards import SHOWN, group_by_item


@dataclass(frozen=True)
class Difference:
    """The difference between a build and the tables; `lacking` are its added rows (image_id, region, shown)."""

    changes: TableChanges
    lacking: DataFrame


def compare(run: Run, builds: Builds, manifest: Manifest, members: DataFrame, numbers: Collection[int]) -> Difference:
    """Compares some shards with members (category, image_id, region, uri, products).

    A row whose facts have changed is stale, and lacking with the new ones.
    """
    rows = _live_rows(run, builds, manifest, numbers).withColumn("listing", F.explode("shown"))
    built = rows.select("shard", "id", "image_id", "region", "listing.*").persist()
    gone = built.join(members, ["category", "image_id", "region", "uri", "products"], "left_anti")
    stale = gone.select("shard", "id").distinct().persist()
    live = built.join(stale, ["shard", "id"], "left_anti")
    lacking = group_by_item(members.join(live, ["category", "image_id", "region"], "left_anti")).persist()
    counts: dict[int, dict[str, int]] = {}
    for row in live.groupBy("shard", "category").count().collect():
        counts.setdefault(row["shard"], {})[row["category"]] = row["count"]
    changes = TableChanges(stale.toArrow(), counts, lacking.count())
    built.unpersist()
    stale.unpersist()
    return Difference(changes, lacking)


def read_tombstones(builds: Builds, manifest: Manifest) -> dict[int, np.ndarray]:
    """Sorted ids by shard that a build has deleted."""
    uri = builds.uri(manifest, manifest.tombstones) if manifest.tombstones else ""
    return tombstones.parse(storage.files(uri).read(uri), uri) if uri else {}


def _live_rows(run: Run, builds: Builds, manifest: Manifest, numbers: Collection[int]) -> DataFrame:
    """(shard, id, image_id, region, shown) of the live rows of some shards."""
    shards = [shard for shard in manifest.shards if shard.number in numbers]
    places = [{"shard": shard.number, "uri": builds.uri(manifest, shard.ids)} for shard in shards]

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        deleted = read_tombstones(builds, manifest)
        for place in rows_of(batches):
            with storage.files(place["uri"]).open(place["uri"]) as file:
                rows = live_rows(read_id_map(file), deleted.get(place["shard"], NOTHING))
            rows = rows.add_column(0, "shard", pa.repeat(pa.scalar(place["shard"], pa.int32()), len(rows)))
            yield from rows.to_batches(max_chunksize=8192)

    named = run.tables.spread(pa.Table.from_pylist(places, pa.schema([("shard", pa.int32()), ("uri", pa.string())])))
    return arrow_map(named, read, f"shard int, id long, image_id string, region string, {SHOWN}")
