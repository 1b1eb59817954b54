"""Vectors like real ones, block by block, their exact neighbours, and what a search of them takes and finds."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from likeness.index import distance

K = 10
_NEAREST, _BLOCK = 8, 8192


def blocks(real: np.ndarray, rows: int, dim: int, seed: int) -> Iterator[np.ndarray]:
    """Vectors like real ones, float32 (<= 8192, dim) each, `rows` in all; the same for the same seed.

    Each is a point between a photo and one of its nearest, moved as another photo differs from one of its own
    nearest; then, unless they have as many numbers already, one fixed random projection; and a ReLU, as a fully
    connected layer does. So clusters lie and spread as the real ones do.
    """
    unit = distance.prepared(real, "cosine")
    near = np.argsort(-(unit @ unit.T), axis=1)[:, 1 : 1 + _NEAREST]
    out = np.random.default_rng(0).standard_normal((unit.shape[1], dim), np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        one, other = rng.integers(0, len(unit), (2, count))
        one_near, other_near = (near[who, rng.integers(0, near.shape[1], count)] for who in (one, other))
        share = rng.random((count, 1), np.float32)
        inner = (1 - share) * unit[one] + share * unit[one_near] + 0.5 * (unit[other] - unit[other_near])
        yield np.maximum(inner if unit.shape[1] == dim else inner @ out, 0)


def exact(vectors: Iterable[np.ndarray], queries: np.ndarray, allowed: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
    """The rows of the K nearest by cosine, int64 (q, K): of all vectors, then of those that each mask allows."""
    nearest = [(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)) for _ in (0, *allowed)]
    start = 0
    for block in vectors:
        scores, rows = queries @ distance.prepared(block, "cosine").T, np.arange(start, start + len(block))
        for number, mask in enumerate((np.ones(len(block), bool), *(mask[rows] for mask in allowed))):
            nearest[number] = _nearest(*nearest[number], scores[:, mask], rows[mask])
        start += len(block)
    return [rows for _, rows in nearest]


def _nearest(best: np.ndarray, rows: np.ndarray, scores: np.ndarray, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    best = np.concatenate([best, scores], axis=1)
    rows = np.concatenate([rows, np.broadcast_to(more, scores.shape)], axis=1)
    order = np.argpartition(-best, min(K, best.shape[1]) - 1, axis=1)[:, :K]
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)


def one_by_one(search: Callable[[np.ndarray], np.ndarray], queries: np.ndarray) -> tuple[list[float], list[list[int]]]:
    """Milliseconds and answers of queries asked one after the other; the first fifty warm up and are asked again."""
    for query in queries[:50]:
        search(query[None])
    spans, neighbours = [], []
    for query in queries:
        begun = time.perf_counter()
        rows = search(query[None])
        spans.append(1000 * (time.perf_counter() - begun))
        neighbours.append([int(row) for row in rows])
    return spans, neighbours


def recall(neighbours: Sequence[Sequence[int]], truth: np.ndarray) -> float:
    """The share of the true nearest neighbours that were returned."""
    return statistics.mean(
        len(set(mine) & set(true)) / len(true) for mine, true in zip(neighbours, truth.tolist(), strict=True)
    )
