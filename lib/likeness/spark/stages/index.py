"""The index stage: listings and features of one snapshot in, a build of audited shards out; and its publication.

A build is whole, or extends the one in service: a delta shard of new rows, tombstones of deleted ones.   [pyspark]
"""

import datetime
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness.core import uris
from likeness.core.errors import DataError, GateError, UsageError
from likeness.core.formatting import pluralize
from likeness.index import kinds, tombstones
from likeness.index.build import BuildSpec
from likeness.index.builds import Builds
from likeness.index.incremental import UNCHANGED, kept_shards, next_step, update_shards
from likeness.index.manifest import Manifest, Shard, build_name
from likeness.index.shard_plan import PlannedShard, plan_delta, plan_shards
from likeness.spark.run import Run
from likeness.spark.stages import build_shards, incremental
from likeness.storage.artifact import File
from likeness.storage.run_facts import IndexFacts, PublishFacts
from likeness.storage.tables import FEATURES, LISTINGS

_DECIDING = ("kind", "metric", "max_shard_vectors", "pack_vectors", "recall", "memory_gb")
"""The settings by which builds of the same snapshots differ."""


def index(run: Run, whole: bool = False, like: Manifest | None = None) -> Manifest | None:
    """Builds shards of all active listings; None if the build in service has these snapshots already.

    That build is returned where another space is the default and no setting says which: it is to be published again.
    The newest build is returned where it has these snapshots, and only a pin has kept it from being published.

    Args:
        run: the run that builds.
        whole: build all shards anew, whatever is in service.
        like: a build of the space to index; the run's space by default.

    Raises:
        UsageError: there is nothing to index.
        DataError: the shards do not hold what the tables do.
    """
    with run.stage(IndexFacts) as facts:
        kinds.check(run.settings.index.kind)
        job = _Job(run, facts, like)
        before = None if whole else job.in_service()
        if before and before.snapshots == job.snapshots:
            facts.built, facts.step = 0, UNCHANGED
            run.say("index: nothing has changed, the build in service stays")
            return None if job.builds.published.configured or job.space in job.builds.spaces() else before
        if not whole and (unpublished := job.unpublished()):
            facts.built, facts.step = 0, UNCHANGED
            run.say(f"index: nothing has changed since {unpublished.build} was built")
            return unpublished
        members = _members(run, job.snapshots, job.space).persist()
        try:
            sizes = {row.category: row["count"] for row in members.groupBy("category").count().collect()}
            if not sizes:
                raise UsageError("nothing to index: no active listing has a photo with a vector; see `likeness status`")
            built = (job.extend(before, members, sizes) if before else None) or job.whole(members, sizes)
            manifest = job.manifest(members, *built)
        finally:
            members.unpersist()
        facts.vectors, facts.expected = sum(manifest.categories().values()), sum(sizes.values())
        listed = run.tables.read(LISTINGS, job.snapshots["listings"]).where("active").select("image_id")
        facts.unsearchable = listed.distinct().count() - manifest.images  # the failure ledger says why
        run.must_add_up(facts)
        job.builds.write(manifest)
        shards = pluralize(len(manifest.shards), "shard")
        run.say(f"index: {manifest.build} is complete, {shards}, {manifest.vectors} vectors")
        return manifest


class _Job:
    """The inputs and steps of one index run."""

    def __init__(self, run: Run, facts: IndexFacts, like: Manifest | None) -> None:
        self.space, self._dim = (like.space, like.dim) if like else (run.space.id, run.space.dim)
        self.run, self.facts, self.settings = run, facts, run.settings.index
        self.snapshots = {t.name: run.tables.snapshot(t) for t in (LISTINGS, FEATURES)}
        self.deciding = {name: getattr(self.settings, name) for name in _DECIDING}
        if self.settings.traffic:
            self.deciding["traffic"] = json.dumps(self.settings.traffic, ensure_ascii=False, sort_keys=True)
        self.builds = Builds.open(run.settings)
        self._name = build_name(run.run_id)
        self._folder = uris.join(self.builds.folder, self.space)

    def in_service(self) -> Manifest | None:
        """The build of the space in service, if it has these settings and its files are there."""
        try:
            current = self.builds.current(self.space)
        except DataError as error:
            self.run.say(f"index: the build in service cannot be read, all shards are built anew: {error}")
            return None
        if current is None or current.index_settings != self.deciding:
            return None
        if missing := self.builds.missing(current):
            self.run.say(f"index: the build in service lacks {missing[0]}, all shards are built anew")
            return None
        return current

    def unpublished(self) -> Manifest | None:
        """The newest build of the space, if it is up to date and was built since a rollback pinned an earlier one."""
        pins, paths = self.builds.pins(self.space), self.builds.of(self.space)
        if not (pins and paths):
            return None
        try:
            newest = self.builds.read(paths[-1])
        except DataError:
            return None  # it is built anew
        since = max(datetime.datetime.fromisoformat(pin.since) for pin in pins).replace(microsecond=0)
        rolled_back = datetime.datetime.fromisoformat(newest.created) < since
        up_to_date = newest.snapshots == self.snapshots and newest.index_settings == self.deciding
        return None if rolled_back or not up_to_date or self.builds.missing(newest) else newest

    def whole(self, members: DataFrame, sizes: Mapping[str, int]) -> tuple[list[Shard], None]:
        """New shards of all members."""
        limits = self.settings
        shards = plan_shards(sizes, limits.max_shard_vectors, limits.pack_vectors, limits.traffic)
        planned = {shard: sum(sizes[name] for name in shard.categories) // shard.parts for shard in shards}
        self.facts.step = "whole"
        return self._build(build_shards.assign_shards(members, planned), planned, sum(sizes.values())), None

    def extend(
        self, before: Manifest, members: DataFrame, sizes: Mapping[str, int]
    ) -> tuple[list[Shard], File | None] | None:
        """The shards and tombstones that bring a build up to the tables; None if a whole build is due."""
        items = sum(sizes.values())
        if next_step(before, items, 0, self.settings) == "whole":
            return None
        numbers = kept_shards(before, "delta")
        difference = incremental.compare(self.run, self.builds, before, members, numbers)
        chosen = next_step(before, items, difference.changes.rows, self.settings)
        if chosen == "whole":
            return None
        if chosen == "merge":
            difference.lacking.unpersist()
            numbers = kept_shards(before, chosen)
            difference = incremental.compare(self.run, self.builds, before, members, numbers)
        changes = difference.changes
        self.facts.step, self.facts.added, self.facts.removed = chosen, changes.added, changes.stale.num_rows
        kept, deleted = update_shards(before, numbers, changes, incremental.read_tombstones(self.builds, before))
        first = max(s.number for s in before.shards) + 1
        parts = plan_delta(changes.added, first, self.settings.max_shard_vectors)
        built, self.facts.built, self.facts.indexed = list[Shard](), 0, 0
        if parts:
            rows = build_shards.split_delta(difference.lacking, first, len(parts))
            built = self._build(rows, dict.fromkeys(parts, changes.added // len(parts)), items, difference.lacking)
        file = f"{self._name}/tombstones.arrow"
        return [*kept, *built], self.builds.add(self.space, file, tombstones.dump(deleted)) if deleted else None

    def _build(
        self, rows: DataFrame, planned: Mapping[PlannedShard, int], items: int, lacking: DataFrame | None = None
    ) -> list[Shard]:
        """Builds shards of all members, or those of a delta, from the rows that a build lacks."""
        snapshot = self.snapshots[FEATURES.name]
        assert snapshot is not None, "there are members, so there are vectors"
        files = build_shards.files_of(self.run, self.space, snapshot, lacking)
        memory, delta = self.settings.memory_gb * 1e9 / items, lacking is not None
        spec = BuildSpec(self._folder, self._name, self.space, self._dim, self.settings, memory, delta)
        built = build_shards.build(self.run, rows, planned, files, spec)
        self.facts.built, self.facts.indexed = len(built), sum(s.vectors for s in built)
        return built

    def manifest(self, members: DataFrame, built: list[Shard], deleted: File | None) -> Manifest:
        """Describes the build, with its counts of distinct images and products."""
        run = self.run
        return Manifest(
            build=self._name,
            run_id=run.run_id,
            created=run.started.isoformat(timespec="seconds"),
            space=self.space,
            dim=self._dim,
            kind=self.settings.kind,
            metric=self.settings.metric,
            snapshots={name: snapshot for name, snapshot in self.snapshots.items() if snapshot is not None},
            index_settings=self.deciding,
            images=members.select("image_id").distinct().count(),
            products=members.select(F.explode("products")).distinct().count(),
            vectors=sum(shard.live for shard in built),
            shards=built,
            tombstones=deleted,
        )


def publish(run: Run, manifest: Manifest, pins: Literal["respect", "remove", "keep"] = "respect") -> None:
    """Puts a build in service, unless a rollback has pinned the build that it would replace.

    Args:
        run: the run that publishes.
        manifest: the build.
        pins: `respect`: a pinned build stays in service, and the facts of the run say so; `remove`: it is replaced, and
            its pin removed; `keep`: it is replaced, and the new build is pinned.

    Raises:
        GateError: a shard's recall, with or without a filter, is below `gates.min_recall`.
    """
    with run.stage(PublishFacts) as facts:
        facts.recall = min(shard.lowest for shard in manifest.shards)
        low = sorted((s for s in manifest.shards if s.lowest < run.settings.gates.min_recall), key=lambda s: s.lowest)
        if low:
            shards = "; ".join(f"shard {s.number} ({s.description}) {s.lowest:.3f}" for s in low[:10])
            raise GateError(
                f"publish: recall@{low[0].recall.k} below gates.min_recall {run.settings.gates.min_recall}: {shards}. "
                f'Build {manifest.build} is kept and not published; index.kind = "flat" reaches 1.0'
            )
        run.check_leases()
        run.say(f"publish: {manifest.build} passes its gates")
        builds = Builds.open(run.settings)
        if pins == "respect" and (pinned := builds.pins(manifest.space)):
            facts.unpublished, facts.pinned = manifest.path, pinned[0].path
            builds.sweep(manifest.space, before=manifest.build)
            run.build = next(iter(builds.chain(manifest.space)), None)
            run.say(f"publish: {manifest.build} is not published: {pinned[0]}")
            return
        builds.publish(manifest, run.settings.index.keep_builds, unpin=pins == "remove")
        run.build = manifest.path
        run.say(f"publish: {manifest.build} is in service")


def searchable(run: Run, space: str, snapshots: Mapping[str, int | None] = MappingProxyType({})) -> DataFrame:
    """Active listings of all photos that have a vector in the space, a row for each region; by default as of now."""
    listings = run.tables.read(LISTINGS, snapshots.get("listings")).where("active")
    vectors = run.tables.read(FEATURES, snapshots.get("features")).where(F.col("space") == space)
    return listings.join(vectors.select("image_id", "region"), "image_id")


def _members(run: Run, snapshots: Mapping[str, int | None], space: str) -> DataFrame:
    """(category, image_id, region, uri, products) of every active listing that has a vector in the space."""
    return (
        searchable(run, space, snapshots)
        .groupBy("category", "image_id", "region")
        .agg(F.min("uri").alias("uri"), F.array_sort(F.collect_set("product_id")).alias("products"))
    )
