"""What an index costs and finds, against exact search and against peers on the same vectors, in one run."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from likeness.core.settings import Index, Settings
from likeness.index import distance, kinds
from likeness.index.build import BuildSpec, build_shard
from likeness.index.manifest import Shard
from likeness.index.searcher import Searcher
from likeness.index.shard import LoadedShard
from likeness.index.shard_plan import PlannedShard
from likeness.models.backbones import resolve
from likeness.serving.encoder import Encoder

from .rows import row
from .vectors import K, blocks, exact, one_by_one, recall

PROJECT = Path(__file__).parents[2]
SEED_SIZE, DIM, QUERIES, FILTERED = 30_185, 4096, 1000, 200
SIZES, LARGE = (10_000, 100_000), 1_000_000
SHARES = (0.5, 0.05, 0.005)
FAITHFUL = "ivf_rabitq"
BUDGET = 4e9
"""Bytes of memory for the seed's size, which the peer that asks for a budget is given too."""
PEERS = ("usearch==2.26.6", "hnswlib==0.8.0", "scann==1.4.2")
AUTOFAISS = ("autofaiss==2.18.0", "numpy<2", "pyarrow<19")


def measure(photos: Sequence[Path], scratch: Path, full: bool) -> None:
    """Every row: the seed's size beside the peers, growth, and filters."""
    real = of_photos(photos)
    small(real, scratch / "small")
    spans = {size: growth(real, size, scratch / f"growth-{size}") for size in (*SIZES, *([LARGE] if full else []))}
    first = min(spans)
    ratios = ", ".join(f"{spans[size] / spans[first]:.1f} at {size / first:.0f} times as many" for size in spans)
    row(f"growth: p50 / that of {first} vectors", ratios, "clearly slower than linearly")


def small(real: np.ndarray, folder: Path) -> None:
    """The seed's size: one query at a time and all at once, beside peers that get the same vectors."""
    vectors = np.concatenate(list(blocks(real, SEED_SIZE, DIM, 1)))
    queries = distance.prepared(np.concatenate(list(blocks(real, QUERIES, DIM, 2))), "cosine")
    (truth,) = exact([vectors], queries)
    record, took = _built(folder, [vectors], BUDGET / SEED_SIZE)
    shard = _loaded(record, folder)
    spans, neighbours = one_by_one(lambda query: shard.nearest(query, K)[1][0], queries)
    begun = time.perf_counter()
    shard.nearest(queries, K)
    batched = len(queries) / (time.perf_counter() - begun)
    p50, reached = statistics.median(spans), recall(neighbours, truth)
    np.save(folder / "vectors.npy", distance.prepared(vectors, "cosine"))
    np.save(folder / "queries.npy", queries)
    del vectors
    peers = _peers(folder, "LIKENESS_PEERS", PEERS, ("usearch", "hnswlib", "scann"))
    name = f"{SEED_SIZE} x {DIM}"
    row(f"{name}, one at a time: recall@{K} of {record.kind}, {dict(record.index_params)}", f"{reached:.4f}", ">= 0.99")
    best, quickest = (min(peers, key=lambda one, what=what: one[what]) for what in ("p50_ms", "build_s"))  # type: ignore[misc]
    times = "; ".join(f"{one['name']} {one['p50_ms']:.3f} ms at {recall(one['found'], truth):.4f}" for one in peers)
    row(f"{name}: p50 / {best['name']}'s", f"{p50 / best['p50_ms']:.2f} ({p50:.3f} ms; {times})", "<= 1, then <= 0.5")
    builds = "; ".join(f"{one['name']} {one['build_s']:.1f} s" for one in peers)
    figure = f"{took / quickest['build_s']:.2f} ({took:.1f} s; {builds})"
    row(f"{name}: build, audit included / {quickest['name']}'s", figure, "<= 0.5")
    row(f"{name}: {QUERIES} queries at once", f"{batched:.0f}/s", ">= 12,000/s")
    (peer,) = _peers(folder, "LIKENESS_AUTOFAISS", AUTOFAISS, ("autofaiss",))
    _beside_autofaiss(peer, (record, took), folder, queries, truth)


def _beside_autofaiss(
    peer: dict[str, Any], chosen: tuple[Shard, float], folder: Path, queries: np.ndarray, truth: np.ndarray
) -> None:
    """Our index against the peer's, which its own build has turned; ours is turned until it finds as much.

    That is the shard that was chosen, or, where its most faithful turn finds less, one of the kind that goes further.
    """
    goal, (record, took) = recall(peer["found"], truth), chosen
    reached, p50, params = _turned(record, folder, queries, truth, goal)
    if reached < goal:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        record, took = _built(folder / "faithful", [vectors], BUDGET / SEED_SIZE, kind=FAITHFUL)
        reached, p50, params = _turned(record, folder / "faithful", queries, truth, goal)
    name = f"{SEED_SIZE} x {DIM} / autofaiss ({peer['effort']}) within {BUDGET / 1e9:.0f} GB"
    row(f"{name}: recall@{K}", f"{reached:.4f} ({record.kind} {dict(params)}) / {goal:.4f}", "at least")
    row(f"{name}: p50", f"{p50 / peer['p50_ms']:.2f} ({p50:.3f} ms / {peer['p50_ms']:.3f} ms)", "<= 1")
    row(f"{name}: build", f"{took / peer['build_s']:.2f} ({took:.1f} s / {peer['build_s']:.1f} s)", "<= 0.33")


def _turned(
    record: Shard, folder: Path, queries: np.ndarray, truth: np.ndarray, goal: float
) -> tuple[float, float, kinds.IndexParams]:
    """Recall and milliseconds at the first turn of a shard that reaches the goal, or at its most faithful one."""
    steps = list(kinds.kind(record.kind).params_grid)
    for params in steps[steps.index(record.index_params) :]:
        shard = _loaded(record.model_copy(update={"index_params": params}), folder)
        spans, neighbours = one_by_one(lambda query, shard=shard: shard.nearest(query, K)[1][0], queries)  # type: ignore[misc]
        if recall(neighbours, truth) >= goal:
            break
    return recall(neighbours, truth), statistics.median(spans), params


def growth(real: np.ndarray, size: int, folder: Path) -> float:
    """Build, search, memory and disk at one size, then filters; gives the p50 in milliseconds.

    A process of its own searches, so that its memory can be measured.
    """
    queries = distance.prepared(np.concatenate(list(blocks(real, QUERIES, DIM, 2))), "cosine")
    allowed = [np.random.default_rng(3).random(size) < share for share in SHARES]
    record, took = _built(folder, blocks(real, size, DIM, 1))
    truth, *within = exact(blocks(real, size, DIM, 1), queries, allowed)
    np.save(folder / "queries.npy", queries)
    (folder / "record.json").write_text(record.model_dump_json())
    command = [sys.executable, "-m", "tests.bench.indexes", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    search = json.loads(done.stdout)
    disk = record.index.bytes + record.ids.bytes
    row(
        f"{size} x {DIM}: {record.kind} {dict(record.index_params)}",
        f"recall@{K} {recall(search['found'], truth):.3f}, "
        f"p50 {search['p50_ms']:.2f} ms, p99 {search['p99_ms']:.2f} ms, build {took:.0f} s, "
        f"{search['RssAnon']:.0f} MB anonymous, {search['RssFile']:.0f} MB mapped, {disk / 1e6:.0f} MB on disk",
        ">= 0.95; at 1 M <= 1,500 MB anonymous",
    )
    shard = _loaded(record, folder)
    for share, mask, true in zip(SHARES, allowed, within, strict=True):
        spans, neighbours = one_by_one(lambda query, mask=mask: shard.nearest(query, K, mask)[1][0], queries[:FILTERED])  # type: ignore[misc]
        figure = f"recall@{K} {recall(neighbours, true[:FILTERED]):.3f}, p50 {statistics.median(spans):.2f} ms"
        row(f"{size} x {DIM}, a filter that {share:.1%} pass", figure, ">= 0.95")
    shutil.rmtree(folder)
    return float(search["p50_ms"])


def _built(
    folder: Path, vectors: Iterable[np.ndarray], budget: float = float("inf"), kind: str = "auto"
) -> tuple[Shard, float]:
    """A shard as the index job builds it, and its seconds, without those in which the vectors were made.

    Args:
        folder: new folder of the shard.
        vectors: float32 (n, dim) each.
        budget: bytes a vector, at search.
        kind: of index.
    """
    folder.mkdir()
    reading = 0.0

    def batches() -> Any:
        nonlocal reading
        number, begun = 0, time.perf_counter()
        for block in vectors:
            for start in range(0, len(block), 256):
                few = block[start : start + 256]
                names = [f"{one * 2**34:016x}".ljust(64, "0") for one in range(number, number + len(few))]
                listed = [[{"category": "all", "uri": name, "products": [name]}] for name in names]
                columns = {"image_id": names, "shown": listed}
                batch = pa.RecordBatch.from_pydict({**columns, "vector": [vector.tobytes() for vector in few]})
                number, reading = number + len(few), reading + time.perf_counter() - begun
                yield batch
                begun = time.perf_counter()

    order = BuildSpec(f"file://{folder}", "built", "bench", DIM, Index(kind=kind), budget)
    begun = time.perf_counter()
    record = build_shard(PlannedShard(0, ("all",)), batches(), order)
    return record, time.perf_counter() - begun - reading


def _loaded(record: Shard, folder: Path) -> Searcher:
    return LoadedShard(record, folder, "cosine").searcher


def _peers(folder: Path, ready: str, packages: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """The peers' figures; the variable `ready` may name a Python that has them, else one is made."""
    python = os.environ.get(ready)
    if not python:
        home = folder / ready.lower()
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        python = str(home / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    command = [python, str(Path(__file__).with_name("peers.py")), str(folder), str(K), *names]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return figures


def of_photos(photos: Sequence[Path]) -> np.ndarray:
    """Vectors of photos: fc6 of the model that LIKENESS_BENCH_FC6 names, else of the default network."""
    weights = os.environ.get("LIKENESS_BENCH_FC6", "")
    fc6 = Settings().extract.model_copy(update={"space": "distilled.fc6", "weights": weights})
    settings = Settings().model_copy(update={"extract": fc6}) if weights else Settings()
    encoder = Encoder(settings, resolve(settings.extract.space, settings.extract.weights, settings.extract.cache).id)
    return np.concatenate([encoder.encode(path.read_bytes()) for path in photos])


def _searched(folder: Path) -> None:
    """One process that loads a shard and searches; prints its figures as JSON."""
    record = Shard.model_validate_json((folder / "record.json").read_text())
    queries = np.load(folder / "queries.npy")
    loaded = LoadedShard(record, folder, "cosine")
    loaded.warm()
    shard = loaded.searcher
    spans, neighbours = one_by_one(lambda query: shard.nearest(query, K)[1][0], queries)
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    p50, p99 = (float(np.quantile(spans, at)) for at in (0.5, 0.99))
    memory = {name: int(status[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile")}
    print(json.dumps({"p50_ms": p50, "p99_ms": p99, "found": neighbours, **memory}))


if __name__ == "__main__":
    _searched(Path(sys.argv[1]))
