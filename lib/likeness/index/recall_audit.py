"""The recall audit: an index and its vectors in, the share of the exact nearest rows that it finds out.

Queries are held out: rows, each moved as far as near rows lie apart. So they follow the distribution of the rows, and
none equals a row (if there are two or more different ones). A row as near as the k-th nearest (to 1e-5) counts as
found, so that ties do not lower the recall.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from likeness.core.settings import Index
from likeness.index import distance
from likeness.index.manifest import Recall

ROWS = 8192
FILTERS = (0.5, 0.05, 0.005)
"""Shares of the rows that pass the filters of the audit."""
_POOL, _NEAREST = 2048, 8
_MOVED = 0.3
"""Chosen so that the 10th and 100th nearest score as for validation photos (0.646, 0.550; those 0.650, 0.554)."""

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Prepared queries, float32 (q, dim), and k in; scores and rows, each (q, k), out."""
FilteredSearch = Callable[[np.ndarray, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A search among the rows that a mask, bool (n,), allows."""


class RecallAudit:
    """Queries for prepared vectors, float32 (n, dim), with their exact nearest rows: of all, and of random shares."""

    def __init__(self, vectors: np.ndarray, settings: Index, seed: int, shares: Sequence[float] = ()) -> None:
        self._vectors, self._metric = vectors, settings.metric
        rng = np.random.default_rng(seed)
        self._queries = _held_out(vectors, self._metric, settings.audit_queries, rng)
        drawn = {share: rng.random(len(vectors)) < share for share in shares}
        self._masks = {share: mask for share, mask in drawn.items() if mask.any()}
        truths = [_Truth(settings.audit_k, mask) for mask in (np.ones(len(vectors), bool), *self._masks.values())]
        for start in range(0, len(vectors), ROWS):
            scores = distance.exact_scores(self._queries, vectors[start : start + ROWS], self._metric)
            for truth in truths:
                truth.add(scores, start)
        self._all, *rest = ((truth.k, self._enough(truth.nearest)) for truth in truths)
        self._filtered = dict(zip(self._masks, rest, strict=True))

    def recall(self, search: Search) -> Recall:
        """Recall@k of a search over these vectors."""
        return self.timed(search)[0]

    def timed(self, search: Search) -> tuple[Recall, float]:
        """Recall@k, and milliseconds a query of a batch of them all."""
        k, enough = self._all
        start = time.perf_counter()
        _, rows = search(self._queries, k)
        took = 1000 * (time.perf_counter() - start) / len(self._queries)
        return Recall(k=k, queries=len(self._queries), value=self._share(rows, k, enough)), took

    def filtered(self, search: FilteredSearch) -> dict[str, float]:
        """Recall@k by the share of the vectors that pass the filter."""
        recalls = {}
        for share, (k, enough) in self._filtered.items():
            _, rows = search(self._queries, k, self._masks[share])
            recalls[str(share)] = self._share(np.where(self._masks[share][rows], rows, -1), k, enough)
        return recalls

    def _share(self, rows: np.ndarray, k: int, enough: np.ndarray) -> float:
        good = (rows >= 0) & (self._scores(np.maximum(rows, 0)) >= enough)
        return float(good.sum() / (k * len(self._queries)))

    def _enough(self, nearest: np.ndarray) -> np.ndarray:
        kth = self._scores(nearest).min(axis=1, keepdims=True)
        return np.asarray(kth - 1e-5 * np.maximum(1, np.abs(kth)))

    def _scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of rows (q, k), one by one: distances by a matrix product are inexact for near vectors."""
        pairs = ((query, self._vectors[nearest]) for query, nearest in zip(self._queries, rows, strict=True))
        if self._metric == "l2":
            return np.stack([-np.linalg.norm(near - query, axis=1) for query, near in pairs])
        return np.stack([near @ query for query, near in pairs])


class _Truth:
    """The exact nearest rows among those that a mask allows, updated by each block of a scan."""

    def __init__(self, k: int, mask: np.ndarray) -> None:
        self.k, self._mask = min(k, int(mask.sum())), mask
        self._best, self.nearest = np.empty((0, 0), np.float32), np.empty((0, 0), np.int64)

    def add(self, scores: np.ndarray, start: int) -> None:
        """Adds scores (q, n) of the rows from `start` on."""
        rows = start + np.flatnonzero(self._mask[start : start + scores.shape[1]])
        block, numbers = scores[:, rows - start], np.broadcast_to(rows, (len(scores), len(rows)))
        if self._best.size:
            block = np.concatenate([self._best, block], axis=1)
            numbers = np.concatenate([self.nearest, numbers], axis=1)
        if block.shape[1] > self.k:
            order = np.argpartition(-block, self.k - 1, axis=1)[:, : self.k]
            block, numbers = np.take_along_axis(block, order, axis=1), np.take_along_axis(numbers, order, axis=1)
        self._best, self.nearest = block, numbers


def _held_out(vectors: np.ndarray, metric: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random rows, each moved by the difference of another random row to the nearest different row of a random pool."""
    rows = len(vectors)
    pool = vectors[rng.choice(rows, min(rows, _POOL), replace=False)]
    ends = vectors[rng.integers(0, rows, count)]
    order = np.argsort(-distance.exact_scores(ends, pool, "l2"), axis=1, kind="stable")[:, :_NEAREST]
    gaps = np.abs(pool[order] - ends[:, None]).max(axis=2)
    near = pool[np.take_along_axis(order, (gaps > 1e-6).argmax(axis=1)[:, None], axis=1)[:, 0]]
    return distance.prepared(vectors[rng.integers(0, rows, count)] + _MOVED * (ends - near), metric)
