"""What neighbours are worth: vectors with categories in, P@k, overlap and intervals out. Pure.

A photo is asked, the others answer. The query itself is never an answer, nor is any other photo of the same product,
which would be found too easily. A photo of several categories agrees with those that share one of them.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness.catalog.samples import Labels
from likeness.core.statistics import Figure, figures
from likeness.index.hamming_codes import bits, hamming

KS = (1, 5, 10)
METRICS = ("cosine", "l2", "hamming")
_TIMED = 32
_VALUES = 1 << 22
"""Scores held at once."""

Scores = Callable[[np.ndarray], np.ndarray]
"""Rows that ask, int64 (q,), in; scores of all rows, float32 (q, n), higher is nearer, out."""


@dataclass(frozen=True)
class QuerySet:
    """Queries among `of` rows: int64 (q,), and for each the rows that may not answer it."""

    rows: np.ndarray
    without: Sequence[np.ndarray]
    of: int


@dataclass(frozen=True)
class MetricResult:
    """One metric: P@k by k, and the median milliseconds of one query by an exact scan of all rows."""

    metric: str
    precision: Mapping[int, Figure]
    ms: float


def scores(vectors: np.ndarray, metric: str) -> Scores:
    """How a metric ranks rows of float32 (n, dim), as the layer gives them, for one of them.

    Ranks are those of the cosine, of the Euclidean distance (l2), or of the bits of the kind `hamming`, without the
    ranking by float16 that an index of that kind adds.
    """
    if metric == "hamming":
        codes = bits(vectors)
        return lambda rows: -hamming(codes[rows], codes).astype(np.float32)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    if metric == "l2":  # the query's own length is the same for all rows
        return lambda rows: 2 * (vectors[rows] @ vectors.T) - squares
    inverse = 1 / np.sqrt(np.where(squares == 0, 1, squares))
    return lambda rows: (vectors[rows] @ vectors.T) * inverse


def draw_queries(labels: Labels, most: int = 1000, seed: int = 0) -> QuerySet:
    """Rows that ask: all that somebody can answer, or so many of them, drawn at random."""
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


def neighbours(ranked: Scores, asked: QuerySet, k: int) -> list[np.ndarray]:
    """The k best rows for each query (all, if there are fewer), the best first, equal ones in the order of the rows."""
    step = max(1, _VALUES // max(1, asked.of))
    found: list[np.ndarray] = []
    for start in range(0, len(asked.rows), step):
        part = ranked(asked.rows[start : start + step])
        found += [_best(row, out, k) for row, out in zip(part, asked.without[start : start + step], strict=True)]
    return found


def _best(ranked: np.ndarray, without: np.ndarray, k: int) -> np.ndarray:
    ranked[without] = -np.inf
    k = min(k, len(ranked) - len(without))
    enough = np.partition(ranked, len(ranked) - k)[len(ranked) - k]
    rows = np.flatnonzero(ranked >= enough)
    return rows[np.argsort(-ranked[rows], kind="stable")][:k]


def agreement(labels: Labels, asked: QuerySet, found: Sequence[np.ndarray], ks: Sequence[int] = KS) -> np.ndarray:
    """For each query and k the share of its k nearest that are of its category, float64 (q, ks)."""
    rows = []
    for query, near in zip(asked.rows, found, strict=True):
        mine = labels.categories[query]
        same = [not mine.isdisjoint(labels.categories[row]) for row in near]
        rows.append([sum(same[:k]) / len(same[:k]) for k in ks])
    return np.array(rows).reshape(-1, len(ks))


def overlap(one: Sequence[np.ndarray], other: Sequence[np.ndarray], ks: Sequence[int] = KS) -> dict[int, Figure]:
    """Overlap@k: the share of the k nearest of the same queries that two searches have in common."""
    shares = [[len({*a[:k]} & {*b[:k]}) / len(a[:k]) for k in ks] for a, b in zip(one, other, strict=True)]
    return dict(zip(ks, figures(np.array(shares)), strict=True))


def measure(vectors: np.ndarray, labels: Labels, asked: QuerySet, metric: str) -> tuple[MetricResult, list[np.ndarray]]:
    """P@k of one metric, with the neighbours that it was counted on.

    Args:
        vectors: float32 (n, dim), as the layer gives them.
        labels: of the same rows.
        asked: the queries, at least one.
        metric: one of METRICS.
    """
    ranked = scores(vectors, metric)
    found = neighbours(ranked, asked, max(KS))
    precision = dict(zip(KS, figures(agreement(labels, asked, found)), strict=True))
    took = []
    for number, row in enumerate(asked.rows[:_TIMED]):
        begun = time.perf_counter()
        _best(ranked(row[None])[0], asked.without[number], max(KS))
        took.append(1000 * (time.perf_counter() - begun))
    return MetricResult(metric, precision, round(statistics.median(took), 4)), found
