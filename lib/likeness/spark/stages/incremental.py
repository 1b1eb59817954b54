"""Growth: a build and the members that the tables now name in; what of it is dead and what it lacks out.   [pyspark]

What a build holds is read from its id maps, so that a build and its tombstones are compared with the tables
themselves, whatever happened between: missed nights, a roll back, a compaction.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness import storage
from likeness.index import tombstones
from likeness.index.builds import Builds
from likeness.index.ids import faiss_id
from likeness.index.manifest import Manifest, Shard
from likeness.spark.arrow_map import arrow_map
from likeness.spark.run import Run
from likeness.spark.stages.build_shards import SHOWN, shown


@dataclass(frozen=True)
class BuildChange:
    """What the tables made of some shards of a build.

    `dead` are rows (shard, image_id) to find no more, `living` images by shard and category, `lacking` rows
    (image_id, shown) that are in none of the shards, `added` their number.
    """

    dead: pa.Table
    living: Mapping[int, Mapping[str, int]]
    lacking: DataFrame
    added: int


def change(run: Run, builds: Builds, manifest: Manifest, members: DataFrame, numbers: Collection[int]) -> BuildChange:
    """Compares the shards of these numbers with members (category, image_id, uri, products).

    A row whose facts have changed is dead, and lacking with the new ones.
    """
    pairs = _held(run, builds, manifest, numbers).select("shard", "image_id", F.explode("shown").alias("one"))
    held = pairs.select("shard", "image_id", "one.*").persist()
    gone = held.join(members, ["category", "image_id", "uri", "products"], "left_anti")
    dead = gone.select("shard", "image_id").distinct().persist()
    alive = held.join(dead, ["shard", "image_id"], "left_anti")
    lacking = shown(members.join(alive, ["category", "image_id"], "left_anti")).persist()
    living: dict[int, dict[str, int]] = {}
    for row in alive.groupBy("shard", "category").count().collect():
        living.setdefault(row["shard"], {})[row["category"]] = row["count"]
    found = BuildChange(dead.toArrow(), living, lacking, lacking.count())
    for done in (held, dead):
        done.unpersist()
    return found


def removed(builds: Builds, manifest: Manifest) -> dict[int, np.ndarray]:
    """Sorted ids by shard that a build finds no more."""
    return _removed(builds.uri(manifest, manifest.tombstones)) if manifest.tombstones else {}


def _removed(uri: str) -> dict[int, np.ndarray]:
    return tombstones.parse(storage.files(uri).read(uri), uri)


def kept(shard: Shard, found: BuildChange, before: Mapping[int, np.ndarray]) -> tuple[Shard, np.ndarray]:
    """A shard as it is after a change, and its sorted removed ids, those of `before` among them."""
    mine = found.dead.filter(pc.equal(found.dead["shard"], shard.number))["image_id"].to_pylist()
    ids = np.array([faiss_id(image_id) for image_id in mine], np.int64)
    ids = np.union1d(ids, before.get(shard.number, np.empty(0, np.int64)))
    categories = dict(sorted(found.living.get(shard.number, {}).items()))
    return shard.model_copy(update={"tombstoned": len(ids), "categories": categories}), ids


def _held(run: Run, builds: Builds, manifest: Manifest, numbers: Collection[int]) -> DataFrame:
    """(shard, image_id, shown) of the living rows of some shards."""
    places = [(shard.number, builds.uri(manifest, shard.ids)) for shard in manifest.shards if shard.number in numbers]
    tombs = builds.uri(manifest, manifest.tombstones) if manifest.tombstones else ""

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        dead = _removed(tombs) if tombs else {}
        for batch in batches:
            for number, uri in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                with storage.files(uri).open(uri) as file:
                    ids = pa.ipc.open_file(file).read_all()
                if number in dead:
                    ids = ids.filter(pc.invert(pc.is_in(ids["id"], pa.array(dead[number]))))
                numbers = pa.array(np.full(len(ids), number, np.int32))
                rows = pa.table({"shard": numbers, "image_id": ids["image_id"], "shown": ids["shown"]})
                yield from rows.to_batches(max_chunksize=8192)

    shards, uris = [number for number, _ in places], [uri for _, uri in places]
    named = pa.table({"shard": pa.array(shards, pa.int32()), "uri": pa.array(uris, pa.string())})
    return arrow_map(run.tables.spread(named), read, f"shard int, image_id string, {SHOWN}")
