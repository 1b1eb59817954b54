"""Category votes: query vectors in, the categories of their nearest neighbours in a sample of a build out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from likeness.index import distance
from likeness.index.manifest import Manifest
from likeness.serving.leaf import LeafPort, plan_sample

SAMPLE_ROWS = 8192
"""Sampled vectors, over all categories, that predict the category of a query."""
_NEIGHBOURS, _AXES = 20, 128


@dataclass(frozen=True)
class Prediction:
    """Predicted categories with their shares, the best first: by a category model, the neighbours or a listing.

    With `restricts`, a search with category `auto` keeps to them. Without it the neighbours' categories are searched: a
    model's prediction is only reported, since near images are wanted whatever their category.
    """

    votes: Sequence[tuple[str, float]]
    restricts: bool = False

    @property
    def best(self) -> tuple[str, float]:
        """The first category and its share; an empty name where nothing was predicted."""
        return self.votes[0] if self.votes else ("", 0.0)


class Voter:
    """Predicts categories from a sample of a build, in few dimensions.

    `whole` says whether the sample has all categories that it should have: not, where a leaf did not answer.
    """

    def __init__(self, manifest: Manifest, leaf: LeafPort) -> None:
        self._metric, sampled = manifest.metric, leaf.sample_vectors(SAMPLE_ROWS)
        sample = np.concatenate([np.zeros((0, manifest.dim), np.float32), *sampled.values()])
        self._axes = _axes(sample) if manifest.dim > _AXES else None
        self._sample = sample if self._axes is None else sample @ self._axes
        self._labels = np.array([name for name, rows in sampled.items() for _ in range(len(rows))])
        planned = plan_sample(manifest, SAMPLE_ROWS).values()
        self.whole = set[str]().union(*planned) <= sampled.keys()

    def vote(self, vectors: np.ndarray) -> Prediction:
        """Weighs the categories of the sampled vectors nearest to each query, float32 (dim,) or (q, dim), by rank."""
        queries = distance.prepared(np.atleast_2d(vectors), self._metric)
        queries = queries if self._axes is None else queries @ self._axes
        scores = distance.exact_scores(queries, self._sample, self._metric)
        nearest = self._labels[_best(scores, _NEIGHBOURS)]
        weights = np.broadcast_to(1 / (1 + np.arange(nearest.shape[1])), nearest.shape)
        votes = {str(name): float(weights[nearest == name].sum() / weights.sum()) for name in np.unique(nearest)}
        return Prediction(sorted(votes.items(), key=lambda vote: (-vote[1], vote[0])))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the highest scores of each row, the highest first, int64 (q, count); fewer where there are fewer."""
    if scores.shape[1] > count:
        columns = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    else:
        columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _axes(rows: np.ndarray) -> np.ndarray:
    """An orthonormal basis, float32 (dim, axes): the few in which products of rows, float32 (n, dim), change least.

    A randomised singular value decomposition with one power iteration (Halko, Martinsson and Tropp, 2011).
    """
    basis = np.random.default_rng(0).standard_normal((rows.shape[1], _AXES)).astype(np.float32)
    for _ in range(2):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0].astype(np.float32)
    return basis
