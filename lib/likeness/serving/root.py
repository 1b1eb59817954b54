"""The root: query vectors in, the answer of the command contract out. No model, no shard of its own."""

import dataclasses
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from likeness.errors import UsageError
from likeness.hidden import Hidden
from likeness.indexes import metrics
from likeness.indexes.search import Hit, merge
from likeness.manifest import Manifest
from likeness.serving.leaf import LeafAnswer, LeafPort, refuse_other

SAMPLE_ROWS = 8192
"""Vectors, over all categories, that predict a query's category."""
_NEIGHBOURS, _CATEGORIES = 20, 3


@dataclass(frozen=True)
class Wish:
    """What is wanted of an answer.

    `category` is `auto` for the best predicted ones, `all`, or a name. `offset` results are passed over, those of
    pages before. Results below `min_score` are left out; with `distinct`, so are further photos of a product that is
    in the answer already.
    """

    k: int = 10
    category: str = "auto"
    offset: int = 0
    min_score: float = float("-inf")
    distinct: bool = False


@dataclass(frozen=True)
class Prediction:
    """What the neighbours' vote says: categories with their share of the votes, the best first."""

    votes: Sequence[tuple[str, float]]

    @property
    def best(self) -> tuple[str, float]:
        """The first category and its share."""
        return self.votes[0]


class Root:
    """Fans a query out to the leaves of one build and merges what they find."""

    def __init__(self, manifest: Manifest, leaves: Sequence[LeafPort], hidden: Hidden | None = None) -> None:
        self.manifest, self._leaves, self._hidden = manifest, leaves, hidden
        self._categories = manifest.categories()
        sampled = [(name, rows) for leaf in leaves for name, rows in leaf.samples(SAMPLE_ROWS).items()]
        self._sample = np.concatenate([rows for _, rows in sampled])
        self._labels = np.array([name for name, rows in sampled for _ in range(len(rows))])

    def predict(self, vectors: np.ndarray) -> Prediction:
        """Votes of the nearest sampled vectors of each query, float32 (dim,) or (q, dim), weighted by rank."""
        queries = metrics.prepared(np.atleast_2d(vectors), self.manifest.metric)
        scores = metrics.exact_scores(queries, self._sample, self.manifest.metric)
        nearest = self._labels[np.argsort(-scores, axis=1, kind="stable")[:, :_NEIGHBOURS]]
        weights = np.broadcast_to(1 / (1 + np.arange(nearest.shape[1])), nearest.shape)
        votes = {str(name): float(weights[nearest == name].sum() / weights.sum()) for name in np.unique(nearest)}
        return Prediction(sorted(votes.items(), key=lambda vote: (-vote[1], vote[0])))

    def search(
        self,
        vectors: np.ndarray,
        space: str,
        wish: Wish,
        told: Prediction | None = None,
        without: Collection[str] = (),
    ) -> dict[str, Any]:
        """Answers one query.

        Args:
            vectors: float32 (dim,), as the layer gives it; or (q, dim): an image is as near as to the nearest of them.
            space: their feature space.
            wish: what is wanted.
            told: the query's categories, where they are known; else they are predicted.
            without: products that are no answer.

        Raises:
            UsageError: no such category, or results that are not to be had.
            SpaceMismatch: the vectors are of another space.
        """
        if wish.k < 1:
            raise UsageError(f"k is {wish.k}; ask for at least 1 result")
        if wish.offset < 0:
            raise UsageError(f"offset is {wish.offset}; the first result is 0")
        begun = time.perf_counter()
        queries = np.atleast_2d(vectors)
        refuse_other(space, queries, self.manifest)
        predicted = told or self.predict(queries)
        searched = self._choose(wish.category, predicted)
        hits, answers = self._found(queries, space, wish, set(searched), without)
        name, score = predicted.best
        return {
            "space": self.manifest.space,
            "build": self.manifest.build,
            "category": {"predicted": name, "score": round(score, 4), "searched": searched},
            "coverage": {
                "shards": sum(not shard.categories.keys().isdisjoint(searched) for shard in self.manifest.shards),
                "answered": sum(len(answer.shards) for answer in answers),
                "vectors": self.manifest.vectors,
                "searched": sum(answer.searched for answer in answers),
                "degraded": [],
            },
            "results": [self._result(hit) for hit in hits],
            "took_ms": {"search": round((time.perf_counter() - begun) * 1000, 3)},
        }

    def _found(
        self, queries: np.ndarray, space: str, wish: Wish, categories: set[str], without: Collection[str]
    ) -> tuple[list[Hit], list[LeafAnswer]]:
        """Asks for more until what may not be shown has left enough."""
        enough = wish.offset + wish.k
        wanted = enough
        while True:
            answers = [leaf.search(queries, wanted, space, categories) for leaf in self._leaves]
            found = merge((hits for answer in answers for hits in answer.hits), wanted)
            hits = self._shown(found, wish, without)
            over = len(found) < wanted or found[-1].score < wish.min_score
            if len(hits) >= enough or over:
                return hits[wish.offset : enough], answers
            wanted *= 2

    def _shown(self, found: Sequence[Hit], wish: Wish, without: Collection[str]) -> list[Hit]:
        """The hits without hidden products and those left out; an image that only those show goes with them."""
        shown, known = [], set[str]()
        for hit in found:
            products = self._hidden.without(hit.products) if self._hidden else hit.products
            products = tuple(name for name in products if name not in without) if without else products
            if wish.distinct:
                products = tuple(name for name in products if name not in known)
                known.update(products)
            if products and hit.score >= wish.min_score:
                shown.append(dataclasses.replace(hit, products=products))
        return shown

    def _choose(self, category: str, predicted: Prediction) -> list[str]:
        if category == "all":
            return list(self._categories)
        if category == "auto":
            return [name for name, _ in predicted.votes[:_CATEGORIES]]
        if category in self._categories:
            return [category]
        raise UsageError(f"--category {category!r}: no such category; there are: {', '.join(self._categories)}")

    def _result(self, hit: Hit) -> dict[str, Any]:
        return {
            "image_id": hit.image_id,
            "product_id": hit.products[0],
            "products": list(hit.products),
            "category": hit.category,
            "uri": hit.uri,
            "score": hit.score,
            "distance": metrics.distance(hit.score, self.manifest.metric),
        }
