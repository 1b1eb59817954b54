"""What an index costs and finds, against exact search and against peers on the same vectors, in one run."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from likeness.backbones import resolve
from likeness.indexes import metrics
from likeness.indexes.build import Order, build_shard
from likeness.indexes.plan import PlannedShard
from likeness.indexes.search import LoadedShard
from likeness.manifest import Shard
from likeness.serving.encoder import Encoder
from likeness.settings import Index, Settings

from .rows import row

PROJECT = Path(__file__).parents[2]
SEED_SIZE, DIM, QUERIES, K = 30_185, 4096, 1000, 10
SIZES = (10_000, 100_000)
PEERS = ("usearch==2.26.6", "hnswlib==0.8.0", "scann==1.4.2")
_NEAREST, _BLOCK = 8, 8192


def measure(photos: Sequence[Path], scratch: Path, full: bool) -> None:
    """Every row: the seed's size beside the peers, growth, and filters."""
    real = _real(photos)
    small(real, scratch)
    for size in (*SIZES, *([1_000_000] if full else [])):
        growth(real, size, scratch)


def small(real: np.ndarray, scratch: Path) -> None:
    """The seed's size: one query at a time and all at once, beside peers that get the same vectors."""
    vectors = made(real, SEED_SIZE, DIM, 1)
    queries = metrics.prepared(made(real, QUERIES, DIM, 2), "cosine")
    truth = _exact(vectors, queries)
    record, took = _built(scratch / "small", vectors)
    shard = LoadedShard(record, scratch / "small", "cosine")
    spans, found = one_by_one(lambda query: shard.searcher.nearest(query, K)[1][0], queries)
    begun = time.perf_counter()
    shard.searcher.nearest(queries, K)
    batched = len(queries) / (time.perf_counter() - begun)
    p50, reached = 1000 * statistics.median(spans), recall(found, truth)
    peers = _peers(scratch, vectors, queries)
    name = f"{SEED_SIZE} x {DIM}, one query at a time"
    row(f"{name}: recall@{K} of {record.kind}, {dict(record.knob)}", f"{reached:.4f}", ">= 0.99")
    told = {one["name"]: f"{one['p50_ms']:.2f} ms at {recall(one['found'], truth):.3f}" for one in peers}
    best = min(one["p50_ms"] for one in peers)
    figure = f"{p50 / best:.2f} ({p50:.3f} ms; " + ", ".join(f"{who} {what}" for who, what in told.items()) + ")"
    row(f"{name}: p50 / the best peer's", figure, "<= 1, then <= 0.5")
    quickest = min(one["build_s"] for one in peers)
    times = ", ".join(f"{one['name']} {one['build_s']:.1f} s" for one in peers)
    row("build, audit included / the fastest peer's", f"{took / quickest:.2f} ({took:.1f} s; {times})", "<= 0.5")
    row(f"{SEED_SIZE} x {DIM}, {QUERIES} queries at once", f"{batched:.0f}/s", ">= 12,000/s")


def growth(real: np.ndarray, size: int, scratch: Path) -> None:
    """Build, search, memory and disk at one size; a process of its own searches, so that its memory can be told."""
    folder = scratch / f"growth-{size}"
    vectors = made(real, size, DIM, 1)
    queries = metrics.prepared(made(real, QUERIES, DIM, 2), "cosine")
    truth = _exact(vectors, queries)
    record, took = _built(folder, vectors)
    allowed = {share: np.random.default_rng(3).random(size) < share for share in (0.5, 0.05, 0.005)}
    within = {share: _exact(vectors[mask], queries) for share, mask in allowed.items()}
    del vectors
    np.save(folder / "queries.npy", queries)
    (folder / "record.json").write_text(record.model_dump_json())
    command = [sys.executable, "-m", "tests.bench.indexes", str(folder)]
    done = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout)
    disk = record.index.bytes + record.ids.bytes
    row(
        f"{size} x {DIM}: {record.kind} {dict(record.knob)}",
        f"recall@{K} {recall(told['found'], truth):.3f}, p50 {told['p50_ms']:.2f} ms, p99 {told['p99_ms']:.2f} ms, "
        f"build {took:.0f} s, {told['anonymous_mb']:.0f} MB anonymous, {disk / 1e6:.0f} MB on disk",
        ">= 0.95; at 1 M <= 1,500 MB anonymous",
    )
    shard = LoadedShard(record, folder, "cosine")
    for share, mask in allowed.items():
        names = np.flatnonzero(mask)
        spans, found = one_by_one(lambda query, mask=mask: shard.searcher.nearest(query, K, mask)[1][0], queries[:200])  # type: ignore[misc]
        figure = (
            f"recall@{K} {recall(found, names[within[share][:200]]):.3f}, p50 {1000 * statistics.median(spans):.2f} ms"
        )
        row(f"{size} x {DIM}, a filter that {share:.1%} pass", figure, ">= 0.95")


def made(real: np.ndarray, rows: int, dim: int, seed: int) -> np.ndarray:
    """Vectors like real ones, float32 (rows, dim).

    Each is a point between a photo and one of its nearest, moved as another photo differs from one of its own
    nearest; then one fixed random projection and a ReLU, as a fully connected layer does. So clusters lie and spread
    as the real ones do.
    """
    unit = metrics.prepared(real, "cosine")
    near = np.argsort(-(unit @ unit.T), axis=1)[:, 1 : 1 + _NEAREST]
    out = np.random.default_rng(0).standard_normal((unit.shape[1], dim), np.float32)
    rng = np.random.default_rng(seed)
    found = np.empty((rows, dim), np.float32)
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        one, other = rng.integers(0, len(unit), (2, count))
        one_near, other_near = (near[who, rng.integers(0, near.shape[1], count)] for who in (one, other))
        share = rng.random((count, 1), np.float32)
        inner = (1 - share) * unit[one] + share * unit[one_near] + 0.5 * (unit[other] - unit[other_near])
        found[start : start + count] = np.maximum(inner @ out, 0)
    return found


def one_by_one(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> tuple[list[float], list[list[int]]]:
    """Seconds and answers of queries asked one after the other; the first fifty warm up and are asked again."""
    for query in queries[:50]:
        search(query[None])
    spans, found = [], []
    for query in queries:
        begun = time.perf_counter()
        rows = search(query[None])
        spans.append(time.perf_counter() - begun)
        found.append([int(name) for name in rows])
    return spans, found


def recall(found: Sequence[Sequence[int]], truth: np.ndarray) -> float:
    """The share of the true nearest that were found."""
    return statistics.mean(
        len(set(mine) & set(true)) / len(true) for mine, true in zip(found, truth.tolist(), strict=True)
    )


def _exact(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The rows of the K nearest by cosine, by a scan of all."""
    best = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        scores = queries @ metrics.prepared(vectors[start : start + _BLOCK], "cosine").T
        names = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        best, rows = np.concatenate([best, scores], axis=1), np.concatenate([rows, names], axis=1)
        order = np.argsort(-best, axis=1)[:, :K]
        best, rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return rows


def _built(folder: Path, vectors: np.ndarray) -> tuple[Shard, float]:
    """A shard as the index job builds it, and its seconds."""
    folder.mkdir()

    def batches() -> Any:
        for start in range(0, len(vectors), 256):
            names = [f"{number * 2**34:016x}".ljust(64, "0") for number in range(start, min(len(vectors), start + 256))]
            blobs = [vector.tobytes() for vector in vectors[start : start + 256]]
            yield pa.RecordBatch.from_pydict(
                {
                    "image_id": names,
                    "shown": [[{"category": "all", "uri": name, "products": [name]}] for name in names],
                    "vector": blobs,
                }
            )

    order = Order(f"file://{folder}", "built", "bench", vectors.shape[1], Index())
    begun = time.perf_counter()
    record = build_shard(PlannedShard(0, ("all",)), batches(), order)
    return record, time.perf_counter() - begun


def _peers(scratch: Path, vectors: np.ndarray, queries: np.ndarray) -> list[dict[str, Any]]:
    """The peers' figures; LIKENESS_PEERS names a Python that has them, else one is made."""
    python = os.environ.get("LIKENESS_PEERS")
    if not python:
        subprocess.run([sys.executable, "-m", "venv", str(scratch / "peers")], check=True)
        python = str(scratch / "peers" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)
    np.save(scratch / "vectors.npy", metrics.prepared(vectors, "cosine"))
    np.save(scratch / "queries.npy", queries)
    command = [python, str(Path(__file__).with_name("peers.py")), str(scratch), str(K)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _real(photos: Sequence[Path]) -> np.ndarray:
    """Vectors of photos by the default network."""
    given = Settings()
    encoder = Encoder(given, resolve(given.extract.space, given.extract.weights, given.extract.cache).id)
    return np.stack([encoder.encode(path.read_bytes()) for path in photos])


def _searched(folder: Path) -> None:
    """One process that loads a shard and searches; prints its figures as JSON."""
    record = Shard.model_validate_json((folder / "record.json").read_text())
    queries = np.load(folder / "queries.npy")
    shard = LoadedShard(record, folder, "cosine")
    spans, found = one_by_one(lambda query: shard.searcher.nearest(query, K)[1][0], queries)
    status = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
    p50, p99 = (1000 * float(np.quantile(spans, at)) for at in (0.5, 0.99))
    print(json.dumps({"p50_ms": p50, "p99_ms": p99, "anonymous_mb": anonymous / 1000, "found": found}))


if __name__ == "__main__":
    _searched(Path(sys.argv[1]))
