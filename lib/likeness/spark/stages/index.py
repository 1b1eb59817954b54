"""Index: listings and features of one snapshot in, a build of audited shards out; and its publication.   [pyspark]

A build is whole, or the one in service with the day's change: a delta shard of what is new, tombstones of what is gone.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness.core import uris
from likeness.core.errors import DataError, GateError, UsageError
from likeness.core.formatting import pluralize
from likeness.index import kinds, tombstones
from likeness.index.build import BuildSpec
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest, Shard, build_name
from likeness.index.shard_plan import UNCHANGED, delta_plan, plan, step
from likeness.spark.run import Run
from likeness.spark.stages import build_shards, incremental
from likeness.storage.artifact import File
from likeness.storage.run_facts import IndexFacts, PublishFacts
from likeness.storage.tables import FEATURES, LISTINGS

_DECIDING = ("kind", "metric", "max_shard_vectors", "pack_vectors", "recall", "memory_gb")
"""The settings that make another build of the same snapshots."""


def index(run: Run, whole: bool = False) -> Manifest | None:
    """Builds shards of all active listings; None if the build in service is of these snapshots already.

    Args:
        run: which run.
        whole: takes nothing over from the build in service.

    Raises:
        UsageError: there is nothing to index.
        DataError: the shards do not hold what the tables do.
    """
    with run.stage(IndexFacts) as facts:
        kinds.check(run.settings.index.kind)
        job = _Job(run, facts)
        before = None if whole else job.in_service()
        if before and before.snapshots == job.snapshots:
            facts.built, facts.step = 0, UNCHANGED
            run.say("index: nothing changed, the build in service stays")
            return None
        members = _members(run, job.snapshots).persist()
        try:
            sizes = {row.category: row["count"] for row in members.groupBy("category").count().collect()}
            if not sizes:
                raise UsageError("nothing to index: no active listing has a photo with a vector; see `likeness status`")
            made = (job.grown(before, members, sizes) if before else None) or job.whole(members, sizes)
            manifest = job.manifest(members, *made)
        finally:
            members.unpersist()
        facts.vectors, facts.expected = sum(manifest.categories().values()), sum(sizes.values())
        facts.unsearchable = _unsearchable(run, job.snapshots, manifest.images)
        run.must_add_up(facts)
        job.builds.write(manifest)
        run.say(
            f"index: {manifest.build} is whole, {pluralize(len(manifest.shards), 'shard')}, {manifest.vectors} vectors"
        )
        return manifest


class _Job:
    """What one index run works with."""

    def __init__(self, run: Run, facts: IndexFacts) -> None:
        self.run, self.facts, self.settings = run, facts, run.settings.index
        self.snapshots = {t.name: run.tables.snapshot(t) for t in (LISTINGS, FEATURES)}
        self.deciding = {name: getattr(self.settings, name) for name in _DECIDING}
        if self.settings.traffic:
            self.deciding["traffic"] = json.dumps(self.settings.traffic, ensure_ascii=False, sort_keys=True)
        self.builds = Builds(run.settings.root)
        self._build = build_name(run.run_id)
        self._folder = uris.join(self.builds.folder, run.space.id)

    def in_service(self) -> Manifest | None:
        """The build in service, if it is of this space and these settings and its files are there."""
        try:
            current = self.builds.current()
        except DataError as error:
            self.run.say(f"index: the build in service cannot be read, a whole one is made: {error}")
            return None
        if current is None or current.space != self.run.space.id or current.index_settings != self.deciding:
            return None
        missing = self.builds.missing(current)
        if missing:
            self.run.say(f"index: the build in service lacks {missing[0]}, a whole one is made")
            return None
        return current

    def whole(self, members: DataFrame, sizes: Mapping[str, int]) -> tuple[list[Shard], None]:
        """New shards of all members."""
        limits = self.settings
        planned = plan(sizes, limits.max_shard_vectors, limits.pack_vectors, limits.traffic)
        rows = build_shards.placed(members, planned)
        expected = [sum(sizes[name] for name in s.categories) // s.parts for s in planned]
        work = build_shards.Work(rows, planned, expected, build_shards.files_of(self.run, self._features()))
        built = build_shards.build(self.run, work, self._order(sum(sizes.values())))
        self.facts.step, self.facts.built, self.facts.indexed = "whole", len(built), sum(s.vectors for s in built)
        return built, None

    def grown(
        self, before: Manifest, members: DataFrame, sizes: Mapping[str, int]
    ) -> tuple[list[Shard], File | None] | None:
        """The shards of a build with the change since; None if it is due to be made whole."""
        live = sum(sizes.values())
        nights = {s.ids.name.partition("/")[0]: s for s in before.shards if s.delta}
        deltas = sum(s.vectors for s in before.shards if s.delta)
        removed = sum(s.tombstoned for s in before.shards if not s.delta)
        if step(live, len(nights), deltas + removed, 1, self.settings) == "whole":
            return None
        numbers = {s.number for s in before.shards}
        found = incremental.change(self.run, self.builds, before, members, numbers)
        night = found.added + found.dead.num_rows
        chosen = step(live, len(nights), deltas + removed + night, night, self.settings)
        if chosen == "whole":
            return None
        if chosen == "merge":
            found.lacking.unpersist()
            numbers = {s.number for s in before.shards if not s.delta}
            found = incremental.change(self.run, self.builds, before, members, numbers)
        self.facts.step, self.facts.added, self.facts.removed = chosen, found.added, found.dead.num_rows
        old = incremental.removed(self.builds, before)
        pairs = [incremental.kept(s, found, old) for s in before.shards if s.number in numbers]
        pairs = [(shard, ids) for shard, ids in pairs if shard.live]
        new = self._delta(found, max(s.number for s in before.shards) + 1, live)
        self.facts.built, self.facts.indexed = len(new), sum(s.vectors for s in new)
        dead = {shard.number: ids for shard, ids in pairs if len(ids)}
        return [*(shard for shard, _ in pairs), *new], self._tombstones(dead)

    def _delta(self, found: incremental.BuildChange, first: int, live: int) -> list[Shard]:
        if not found.added:
            return []
        planned = delta_plan(found.added, first, self.settings.max_shard_vectors)
        rows = build_shards.split(found.lacking, planned)
        expected = [found.added // s.parts for s in planned]
        work = build_shards.Work(
            rows, planned, expected, build_shards.files_of(self.run, self._features(), found.lacking)
        )
        return build_shards.build(self.run, work, self._order(live, delta=True))

    def _tombstones(self, dead: Mapping[int, np.ndarray]) -> File | None:
        if not dead:
            return None
        return self.builds.add(self.run.space.id, f"{self._build}/removed.arrow", tombstones.dump(dead))

    def _order(self, live: int, delta: bool = False) -> BuildSpec:
        memory = self.settings.memory_gb * 1e9 / live
        return BuildSpec(self._folder, self._build, self.run.space.id, self.run.space.dim, self.settings, memory, delta)

    def _features(self) -> int:
        snapshot = self.snapshots[FEATURES.name]
        assert snapshot is not None, "there are members, so there are vectors"
        return snapshot

    def manifest(self, members: DataFrame, built: list[Shard], removed: File | None) -> Manifest:
        """What the build is."""
        run = self.run
        return Manifest(
            build=self._build,
            run_id=run.run_id,
            created=run.started.isoformat(timespec="seconds"),
            space=run.space.id,
            dim=run.space.dim,
            kind=self.settings.kind,
            metric=self.settings.metric,
            snapshots={name: snapshot for name, snapshot in self.snapshots.items() if snapshot is not None},
            index_settings=self.deciding,
            images=members.select("image_id").distinct().count(),
            products=members.select(F.explode("products")).distinct().count(),
            vectors=sum(shard.live for shard in built),
            shards=built,
            tombstones=removed,
        )


def publish(run: Run, manifest: Manifest) -> None:
    """Puts a build in service.

    Raises:
        GateError: a shard's recall, with or without a filter, is below `gates.min_recall`.
    """
    with run.stage(PublishFacts) as facts:
        facts.recall = min(shard.lowest for shard in manifest.shards)
        low = sorted((s for s in manifest.shards if s.lowest < run.settings.gates.min_recall), key=lambda s: s.lowest)
        if low:
            told = "; ".join(f"shard {s.number} ({s.description}) {s.lowest:.3f}" for s in low[:10])
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
    listings = run.tables.read(LISTINGS, snapshots.get("listings")).where("active")
    here = run.tables.read(FEATURES, snapshots.get("features")).where(F.col("space") == run.space.id)
    return listings.join(here.select("image_id"), "image_id", "left_semi")


def _members(run: Run, snapshots: Mapping[str, int | None]) -> DataFrame:
    """(category, image_id, uri, products) of every active listing that the space has a vector of."""
    return (
        searchable(run, snapshots)
        .groupBy("category", "image_id")
        .agg(F.min("uri").alias("uri"), F.array_sort(F.collect_set("product_id")).alias("products"))
    )


def _unsearchable(run: Run, snapshots: Mapping[str, int | None], images: int) -> int:
    """Images of active listings without a vector: their failures stand in the ledger."""
    listed = run.tables.read(LISTINGS, snapshots["listings"]).where("active").select("image_id").distinct().count()
    return listed - images
