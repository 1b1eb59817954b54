"""Retrieval metrics: vectors with categories in; P@k, overlap and confidence intervals out. Pure.

Each query is a photo, searched among the others. Neither it nor another photo of the same product, which would be
found too easily, counts as an answer. An answer is right if it shares a category with the query.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness.catalog.samples import Labels
from likeness.core.statistics import Figure, figures
from likeness.index.hamming_codes import encode, hamming_distances

KS = (1, 5, 10)
METRICS = ("cosine", "l2", "hamming")
_TIMED = 32
_VALUES = 1 << 22
"""Scores in memory at once."""

Scores = Callable[[np.ndarray], np.ndarray]
"""Numbers of query rows, int64 (q,), in; scores of all rows, float32 (q, n), higher is nearer, out."""


@dataclass(frozen=True)
class QuerySet:
    """Queries among `of` rows: their numbers, int64 (q,), and for each the rows that do not count as answers."""

    rows: np.ndarray
    without: Sequence[np.ndarray]
    of: int


@dataclass(frozen=True)
class MetricResult:
    """Results of one metric: P@k by k, and the median milliseconds of a query by an exact scan of all rows."""

    metric: str
    precision: Mapping[int, Figure]
    ms: float


def scores(vectors: np.ndarray, metric: str) -> Scores:
    """The scores by which a metric ranks rows, float32 (n, dim) as the layer gives them, for one of them.

    The metric is the cosine, the Euclidean distance (l2), or `hamming`: the codes of that index kind, without its
    ranking by float16 vectors.
    """
    if metric == "hamming":
        codes = encode(vectors)
        return lambda rows: -hamming_distances(codes[rows], codes).astype(np.float32)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    if metric == "l2":  # the query's own length is the same for all rows
        return lambda rows: 2 * (vectors[rows] @ vectors.T) - squares
    inverse = 1 / np.sqrt(np.where(squares == 0, 1, squares))
    return lambda rows: (vectors[rows] @ vectors.T) * inverse


def draw_queries(labels: Labels, most: int = 1000, seed: int = 0) -> QuerySet:
    """Draws at most `most` queries at random from all rows that have a possible answer."""
    rows: dict[str, list[int]] = {}
    for row, products in enumerate(labels.products):
        for product in products:
            rows.setdefault(product, []).append(row)
    count = len(labels.products)
    queries, without = [], []
    for query in np.random.default_rng(seed).permutation(count).tolist():
        out = {query, *(row for product in labels.products[query] for row in rows[product])}
        if len(out) < count:
            queries.append(query)
            without.append(np.array(sorted(out)))
        if len(queries) == most:
            break
    return QuerySet(np.array(queries, np.int64), without, count)


def neighbours(ranked: Scores, queries: QuerySet, k: int) -> list[np.ndarray]:
    """The k best rows for each query (all, if there are fewer), the best first, equal ones in the order of the rows."""
    step = max(1, _VALUES // max(1, queries.of))
    nearest: list[np.ndarray] = []
    for start in range(0, len(queries.rows), step):
        part = ranked(queries.rows[start : start + step])
        without = queries.without[start : start + step]
        nearest += [_best(row, out, k) for row, out in zip(part, without, strict=True)]
    return nearest


def _best(ranked: np.ndarray, without: np.ndarray, k: int) -> np.ndarray:
    ranked[without] = -np.inf
    k = min(k, len(ranked) - len(without))
    enough = np.partition(ranked, len(ranked) - k)[len(ranked) - k]
    rows = np.flatnonzero(ranked >= enough)
    return rows[np.argsort(-ranked[rows], kind="stable")][:k]


def precision_at(
    labels: Labels, queries: QuerySet, nearest: Sequence[np.ndarray], ks: Sequence[int] = KS
) -> np.ndarray:
    """P@k of each query and k, the share of its k nearest that share a category with it: float64 (q, ks)."""
    rows = []
    for query, near in zip(queries.rows, nearest, strict=True):
        categories = labels.categories[query]
        same = [not categories.isdisjoint(labels.categories[row]) for row in near]
        rows.append([sum(same[:k]) / len(same[:k]) for k in ks])
    return np.array(rows).reshape(-1, len(ks))


def overlap(one: Sequence[np.ndarray], other: Sequence[np.ndarray], ks: Sequence[int] = KS) -> dict[int, Figure]:
    """Overlap@k: the share of the k nearest of the same queries that two searches have in common."""
    shares = [[len({*a[:k]} & {*b[:k]}) / len(a[:k]) for k in ks] for a, b in zip(one, other, strict=True)]
    return dict(zip(ks, figures(np.array(shares)), strict=True))


def measure(
    vectors: np.ndarray, labels: Labels, queries: QuerySet, metric: str
) -> tuple[MetricResult, list[np.ndarray]]:
    """Measures P@k of one metric; returns it with the neighbours of each query.

    Args:
        vectors: float32 (n, dim), as the layer gives them.
        labels: of the same rows.
        queries: at least one.
        metric: one of METRICS.
    """
    ranked = scores(vectors, metric)
    nearest = neighbours(ranked, queries, max(KS))
    precision = dict(zip(KS, figures(precision_at(labels, queries, nearest)), strict=True))
    times = []
    for number, row in enumerate(queries.rows[:_TIMED]):
        start = time.perf_counter()
        _best(ranked(row[None])[0], queries.without[number], max(KS))
        times.append(1000 * (time.perf_counter() - start))
    return MetricResult(metric, precision, round(statistics.median(times), 4)), nearest
