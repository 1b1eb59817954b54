"""What a night costs beside a whole build, and how an index of very uneven categories is built and searched."""

import dataclasses
import datetime
import hashlib
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyspark.sql.functions as F
from tests.runs import append_features

from likeness.core.settings import Index, Settings
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.index.shard_plan import assign_tasks, plan_shards
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.spark.run import Run
from likeness.spark.stages.index import index, publish
from likeness.storage.run_facts import IndexFacts
from likeness.storage.tables import LISTINGS

from .rows import row
from .vectors import K, blocks

NIGHT, DIM = 100_000, 1280
SKEWED, CATEGORIES, NARROW = 200_000, 200, 256
_NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def measure(real: np.ndarray, scratch: Path, full: bool) -> None:
    """Both rows; the largest category has 200,000 photos in full, else a tenth."""
    night(real, scratch / "night")
    skew(real, scratch / "skew", SKEWED if full else SKEWED // 10)


def night(real: np.ndarray, root: Path) -> None:
    """One in a hundred photos new and one in two hundred withdrawn, against the whole build before."""
    settings, keys = Settings(root=str(root)), _keys("night", NIGHT + NIGHT // 100)
    names = np.random.default_rng(1).choice([f"category {n}" for n in range(20)], len(keys))
    before, facts = _indexed(settings, DIM, keys[:NIGHT], names[:NIGHT], blocks(real, NIGHT, DIM, 1))
    gone = keys[:NIGHT:200]
    with Run("withdraw", settings, ()) as run:
        listed = run.tables.read(LISTINGS).where(F.col("image_id").isin(gone)).withColumn("active", F.lit(False))
        run.tables.upsert(LISTINGS, listed.localCheckpoint())
    after, grown = _indexed(settings, DIM, keys[NIGHT:], names[NIGHT:], blocks(real, NIGHT // 100, DIM, 3))
    assert (grown.step, grown.added, grown.removed) == ("delta", NIGHT // 100, len(gone))
    assert after.vectors == before.vectors + NIGHT // 100 - len(gone)
    limit = 0.05 * facts.seconds + 20
    share = grown.seconds / facts.seconds
    figure = f"{grown.seconds:.1f} s, a whole build {facts.seconds:.1f} s ({share:.2f} of it)"
    row(f"index stage, 1 % new and 0.5 % withdrawn of {NIGHT} x {DIM}", figure, f"<= 5 % + 20 s, {limit:.1f} s here")
    _searched(settings, real, f"{NIGHT} x {DIM} after that night", DIM)


def skew(real: np.ndarray, root: Path, largest: int) -> None:
    """Categories by Zipf's law: planned, built by tasks of even size, and searched within memory."""
    sizes = {f"category {rank:03d}": max(1, largest // rank) for rank in range(1, CATEGORIES + 1)}
    total, settings = sum(sizes.values()), Settings(root=str(root))
    names = np.repeat(list(sizes), list(sizes.values()))
    with _Watch() as watch:
        _, facts = _indexed(settings, NARROW, _keys("skew", total), names, blocks(real, total, NARROW, 1))
    planned = plan_shards(sizes, Index().max_shard_vectors, Index().pack_vectors)
    rows = [sum(sizes[name] for name in shard.categories) // shard.parts for shard in planned]
    places = assign_tasks(rows, 4 * (psutil.cpu_count() or 1))
    sums = np.bincount(places, rows)
    name = f"{CATEGORIES} categories by Zipf, {total} x {NARROW}"
    row(
        f"{name}: largest task / mean",
        f"{sums.max() / sums.mean():.2f} ({len(planned)} shards, {len(sums)} tasks)",
        "<= 2",
    )
    figure = f"{facts.seconds:.0f} s, workers' peak {watch.peak / 1e6:.0f} MB anonymous in all"
    row(f"{name}: build", figure, "within memory")
    _searched(settings, real, name, NARROW)


def _searched(settings: Settings, real: np.ndarray, name: str, dim: int) -> None:
    """Queries over all categories against a scan of what is in the index."""
    builds = Builds(settings.root)
    manifest = builds.find()
    begun = time.perf_counter()
    leaf = Leaf(builds, manifest)
    root, took = Root(manifest, leaf), time.perf_counter() - begun
    queries = np.concatenate(list(blocks(real, 50, dim, 2)))
    spans = []
    for query in queries:
        begun = time.perf_counter()
        assert len(root.search(query, manifest.space, SearchParams(K, "all")).results) == K
        spans.append(1000 * (time.perf_counter() - begun))
    worst = min(shard.lowest for shard in manifest.shards)
    figure = f"p50 {statistics.median(spans):.1f} ms in {len(manifest.shards)} shards, worst audited recall {worst:.3f}"
    row(f"{name}: search of all categories", f"{figure}, loaded in {took:.1f} s", "recall >= 0.95")


def _indexed(
    settings: Settings, dim: int, keys: list[str], names: np.ndarray, vectors: Iterator[np.ndarray]
) -> tuple[Manifest, IndexFacts]:
    """Adds photos to the tables, indexes and publishes; the build and the stage's facts."""
    run = Run("index", settings, ("index",))
    run.space = dataclasses.replace(run.space, dim=dim)
    with run:
        append_features(run, keys, vectors)
        listed = {
            "product_id": keys,
            "image_id": keys,
            "uri": [f"file:///{key}.jpg" for key in keys],
            "category": names.tolist(),
            "attributes": ["{}"] * len(keys),
            "active": [True] * len(keys),
            "since": [_NOW] * len(keys),
        }
        schema = pa.schema([pa.field(column.name, column.type) for column in LISTINGS.columns])
        run.tables.append(LISTINGS, run.tables.spark.createDataFrame(pa.table(listed, schema=schema)))
        built = index(run)
        assert built
        publish(run, built)
    assert run.facts.index
    return built, run.facts.index


def _keys(name: str, count: int) -> list[str]:
    return [hashlib.sha256(f"{name} {number}".encode()).hexdigest() for number in range(count)]


class _Watch:
    """The most anonymous memory that this process's descendants held at once, the JVM left out."""

    def __init__(self) -> None:
        self.peak, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith("python"):
                        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                        total += next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
                except (psutil.Error, OSError, StopIteration):
                    continue
            self.peak = max(self.peak, 1000 * total)
