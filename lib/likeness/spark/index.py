"""Index: listings and features of one snapshot in, a build of audited shards out; and its publication.   [pyspark]"""

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness import uris
from likeness.errors import DataError, GateError, UsageError
from likeness.indexes import kinds
from likeness.indexes.build import Order, build_shard
from likeness.indexes.plan import PlannedShard, plan
from likeness.manifest import Builds, Manifest, Shard, build_name
from likeness.spark.progress import watched
from likeness.spark.run import Run
from likeness.tables import FEATURES, LISTINGS
from likeness.warehouse import vectors

_DECIDING = ("kind", "metric", "max_shard_vectors", "recall", "memory_gb")
"""The settings that make another build of the same snapshots."""
_TASKS_A_CORE = 4


def index(run: Run) -> Manifest | None:
    """Builds shards of all active listings; None if the build in service is of these snapshots already.

    Raises:
        UsageError: there is nothing to index.
        DataError: the shards do not hold what the tables do.
    """
    with run.stage("index") as facts:
        settings = run.settings.index
        kinds.check(settings.kind)
        snapshots = {t.name: run.lake.snapshot(t) for t in (LISTINGS, FEATURES)}
        deciding = {name: getattr(settings, name) for name in _DECIDING}
        builds = Builds(run.settings.root)
        if _in_service(builds, run.space.id, snapshots, deciding):
            facts["built"] = 0
            run.say("index: nothing changed, the build in service stays")
            return None
        members = _members(run, snapshots).persist()
        try:
            sizes = {row.category: row["count"] for row in members.groupBy("category").count().collect()}
            if not sizes:
                raise UsageError("nothing to index: no active listing has a photo with a vector; see `likeness status`")
            shards = _build(run, members, sizes, snapshots)
            manifest = _manifest(run, members, shards, snapshots, deciding)
        finally:
            members.unpersist()
        facts |= {"built": len(shards), "vectors": manifest.vectors, "wanted": sum(sizes.values())}
        facts["unsearchable"] = _unsearchable(run, snapshots, manifest.images)
        run.must_add_up("index", "wanted", "vectors")
        builds.write(manifest)
        run.say(f"index: {manifest.build} is whole, {len(shards)} shards, {manifest.vectors} vectors")
        return manifest


def publish(run: Run, manifest: Manifest) -> None:
    """Puts a build in service.

    Raises:
        GateError: a shard's recall is below `gates.min_recall`.
    """
    with run.stage("publish") as facts:
        worst = min(shard.recall.value for shard in manifest.shards)
        facts["recall"] = worst
        low = [s for s in manifest.shards if s.recall.value < run.settings.gates.min_recall]
        if low:
            told = "; ".join(f"shard {s.number} ({s.category}) {s.recall.value:.3f}" for s in low[:10])
            raise GateError(
                f"publish: recall@{low[0].recall.k} below gates.min_recall {run.settings.gates.min_recall}: {told}. "
                f'Build {manifest.build} is kept and not published; index.kind = "flat" reaches 1.0'
            )
        run.guard()
        run.say(f"publish: {manifest.build} passes its gates")
        Builds(run.settings.root).publish(manifest, run.settings.index.keep_builds)
        run.build = manifest.path
        run.say(f"publish: {manifest.build} is in service")


def searchable(run: Run, snapshots: Mapping[str, int | None] = MappingProxyType({})) -> DataFrame:
    """Active listings whose photo the space has a vector of, by default as of now: what an index is made of."""
    listings = run.lake.read(LISTINGS, snapshots.get("listings")).where("active")
    here = run.lake.read(FEATURES, snapshots.get("features")).where(F.col("space") == run.space.id)
    return listings.join(here.select("image_id"), "image_id", "left_semi")


def _in_service(builds: Builds, space: str, snapshots: Mapping[str, int | None], deciding: Mapping[str, Any]) -> bool:
    try:
        current = builds.current()
    except DataError:
        return False
    return bool(
        current and current.space == space and current.snapshots == snapshots and current.index_settings == deciding
    )


def _members(run: Run, snapshots: Mapping[str, int | None]) -> DataFrame:
    """(category, image_id, uri, products) of every active listing that the space has a vector of."""
    return (
        searchable(run, snapshots)
        .groupBy("category", "image_id")
        .agg(F.min("uri").alias("uri"), F.array_sort(F.collect_set("product_id")).alias("products"))
    )


def _vectors(run: Run, snapshot: int | None) -> DataFrame:
    """(image_id, vector as little-endian float32) of the space: as bytes, which Spark moves without a look inside."""
    space = run.space.id
    files = run.lake.files_of(FEATURES, "space", space, snapshot) if snapshot is not None else []

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for uri in batch.column("uri").to_pylist():
                for keys, rows in vectors(uri, space):
                    lists = pa.array([row.tobytes() for row in rows], pa.binary())
                    yield pa.RecordBatch.from_arrays([pa.array(keys), lists], names=["image_id", "vector"])

    spark, reader = run.lake.spark, cast(Any, read)
    tasks = max(1, min(len(files), _TASKS_A_CORE * spark.sparkContext.defaultParallelism))
    named = spark.createDataFrame(pa.table({"uri": pa.array(files, pa.string())})).repartition(tasks)
    return named.mapInArrow(reader, "image_id string, vector binary")


def _unsearchable(run: Run, snapshots: Mapping[str, int | None], images: int) -> int:
    """Images of active listings without a vector: their failures stand in the ledger."""
    listed = run.lake.read(LISTINGS, snapshots["listings"]).where("active").select("image_id").distinct().count()
    return listed - images


def _build(run: Run, members: DataFrame, sizes: Mapping[str, int], snapshots: Mapping[str, int | None]) -> list[Shard]:
    shards = plan(sizes, run.settings.index.max_shard_vectors)
    folder = uris.join(Builds(run.settings.root).folder, run.space.id, build_name(run.run_id))
    memory = run.settings.index.memory_gb * 1e9 / sum(sizes.values())
    order = Order(folder, run.space.id, run.space.dim, run.settings.index, memory)
    first = pa.table(
        {
            "category": [s.category for s in shards if s.part == 0],
            "first": [s.number for s in shards if s.part == 0],
            "parts": [s.parts for s in shards if s.part == 0],
        }
    )
    places = F.broadcast(run.lake.spark.createDataFrame(first))
    prefix = F.conv(F.substring("image_id", 1, 8), 16, 10).cast("long")
    part = F.floor(prefix * F.col("parts") / F.lit(2**32))
    rows = (
        members.join(places, "category")
        .withColumn("shard", (F.col("first") + part).cast("int"))
        .select("shard", "image_id", "uri", "products")
        .join(_vectors(run, snapshots["features"]), "image_id")
        .repartitionById(len(shards), "shard")
        .sortWithinPartitions("shard", "image_id")
    )
    with run.reporter.bar("index", len(shards), "shards") as bar, watched(run, bar, 0, len(shards)):
        records = rows.mapInArrow(_worker(shards, order), "record string").collect()
    run.say(f"index: {len(records)} shards written")
    return sorted((Shard.model_validate_json(row.record) for row in records), key=lambda shard: shard.number)


def _worker(shards: list[PlannedShard], order: Order) -> Any:
    """Builds the shards of one partition, each as its rows stream by."""

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, rows in itertools.groupby(_by_shard(batches), key=lambda piece: piece[0]):
            shard = build_shard(shards[number], (batch for _, batch in rows), order)
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


def _manifest(
    run: Run,
    members: DataFrame,
    shards: list[Shard],
    snapshots: Mapping[str, int | None],
    deciding: Mapping[str, Any],
) -> Manifest:
    images = members.select("image_id").distinct().count()
    products = members.select(F.explode("products")).distinct().count()
    return Manifest(
        build=build_name(run.run_id),
        run_id=run.run_id,
        created=run.started.isoformat(timespec="seconds"),
        space=run.space.id,
        dim=run.space.dim,
        kind=run.settings.index.kind,
        metric=run.settings.index.metric,
        snapshots={name: snapshot for name, snapshot in snapshots.items() if snapshot is not None},
        index_settings=deciding,
        images=images,
        products=products,
        vectors=sum(shard.vectors for shard in shards),
        shards=shards,
    )
