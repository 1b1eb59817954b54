"""The audit: an index and the vectors it was made of in, the share of the truly nearest that it finds out.

Queries are held out: rows moved as far as near rows lie from each other, in the distribution of the rows but (of two
or more different ones) none of them. A row as near as the k-th nearest (to 1e-5) counts as found, so that ties are not
held against an index.
"""

import time
from collections.abc import Callable

import numpy as np

from likeness.indexes import metrics
from likeness.manifest import Recall

ROWS = 8192
_POOL, _NEAREST = 2048, 8
_MOVED = 0.3
"""So the tenth and hundredth nearest are as far as those of validation photos (0.646, 0.550 for 0.650, 0.554)."""

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Prepared queries, float32 (q, dim), and k in; scores and rows, each (q, k), out."""


class Audit:
    """Queries with their exact answers, for prepared vectors, float32 (n, dim)."""

    def __init__(self, vectors: np.ndarray, metric: str, queries: int, k: int, seed: int) -> None:
        self._vectors, self._metric, self._k = vectors, metric, min(k, len(vectors))
        self._queries = _held_out(vectors, metric, queries, np.random.default_rng(seed))
        best = np.empty((queries, 0), np.float32)
        nearest = np.empty((queries, 0), np.int64)
        for start in range(0, len(vectors), ROWS):
            scores = metrics.exact_scores(self._queries, vectors[start : start + ROWS], metric)
            rows = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
            best, nearest = np.concatenate([best, scores], axis=1), np.concatenate([nearest, rows], axis=1)
            order = np.argpartition(-best, min(self._k, best.shape[1]) - 1, axis=1)[:, : self._k]
            best, nearest = np.take_along_axis(best, order, axis=1), np.take_along_axis(nearest, order, axis=1)
        kth = self._scores(nearest).min(axis=1, keepdims=True)
        self._enough = kth - 1e-5 * np.maximum(1, np.abs(kth))

    def recall(self, search: Search) -> Recall:
        """Recall@k of a search over these vectors."""
        return self.timed(search)[0]

    def timed(self, search: Search) -> tuple[Recall, float]:
        """Recall@k, and milliseconds a query, all asked at once."""
        begun = time.perf_counter()
        _, rows = search(self._queries, self._k)
        took = 1000 * (time.perf_counter() - begun) / len(self._queries)
        found = (rows >= 0) & (self._scores(np.maximum(rows, 0)) >= self._enough)
        return Recall(k=self._k, queries=len(self._queries), value=float(found.mean())), took

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of rows (q, k), one by one: a scan's distances of near vectors lose what is less than their length."""
        found = []
        for query, mine in zip(self._queries, rows, strict=True):
            near = self._vectors[mine]
            found.append(-np.linalg.norm(near - query, axis=1) if self._metric == "l2" else near @ query)
        return np.stack(found)


def _held_out(vectors: np.ndarray, metric: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random rows, each moved as another random row differs from the nearest different one of a random pool."""
    rows = len(vectors)
    pool = vectors[rng.choice(rows, min(rows, _POOL), replace=False)]
    ends = vectors[rng.integers(0, rows, count)]
    order = np.argsort(-metrics.exact_scores(ends, pool, "l2"), axis=1, kind="stable")[:, :_NEAREST]
    gaps = np.abs(pool[order] - ends[:, None]).max(axis=2)
    near = pool[np.take_along_axis(order, (gaps > 1e-6).argmax(axis=1)[:, None], axis=1)[:, 0]]
    return metrics.prepared(vectors[rng.integers(0, rows, count)] + _MOVED * (ends - near), metric)
