"""The root: a query vector in, the answer of the command contract out. No model, no shard of its own."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from likeness.errors import UsageError
from likeness.hidden import Hidden
from likeness.indexes import metrics
from likeness.indexes.search import Hit, merge
from likeness.manifest import Manifest
from likeness.serving.leaf import LeafPort

SAMPLE_ROWS = 8192
"""Vectors, over all categories, that predict a query's category."""
_NEIGHBOURS, _CATEGORIES = 20, 3


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
        self._manifest, self._leaves, self._hidden = manifest, leaves, hidden
        self._categories = manifest.categories()
        sampled = [(name, rows) for leaf in leaves for name, rows in leaf.samples(SAMPLE_ROWS).items()]
        self._sample = np.concatenate([rows for _, rows in sampled])
        self._labels = np.array([name for name, rows in sampled for _ in range(len(rows))])

    def predict(self, vector: np.ndarray) -> Prediction:
        """Votes of the nearest sampled vectors, weighted by rank."""
        query = metrics.prepared(vector[None], self._manifest.metric)
        scores = metrics.exact_scores(query, self._sample, self._manifest.metric)[0]
        nearest = self._labels[np.argsort(-scores, kind="stable")[:_NEIGHBOURS]]
        weights = 1 / (1 + np.arange(len(nearest)))
        votes = {str(name): float(weights[nearest == name].sum() / weights.sum()) for name in set(nearest)}
        return Prediction(sorted(votes.items(), key=lambda vote: (-vote[1], vote[0])))

    def search(self, vector: np.ndarray, space: str, k: int, category: str = "auto") -> dict[str, Any]:
        """Answers one query.

        Args:
            vector: float32 (dim,), as the layer gives it.
            space: its feature space.
            k: results wanted.
            category: `auto` searches the best predicted categories, `all` every one, else the named one.

        Raises:
            UsageError: no such category, or k below 1.
            SpaceMismatch: the vector is of another space.
        """
        if k < 1:
            raise UsageError(f"k is {k}; ask for at least 1 result")
        begun = time.perf_counter()
        predicted = self.predict(vector)
        searched = self._choose(category, predicted)
        wanted = k
        while True:
            answers = [a for leaf in self._leaves for a in leaf.search(vector[None], wanted, space, set(searched))]
            found = merge((answer.hits[0] for answer in answers), wanted)
            hits = self._shown(found)[:k]
            if len(hits) == k or len(found) < wanted:
                break
            wanted *= 2  # hidden products took places of others
        name, score = predicted.best
        return {
            "space": self._manifest.space,
            "build": self._manifest.build,
            "category": {"predicted": name, "score": round(score, 4), "searched": searched},
            "coverage": {
                "shards": sum(not shard.categories.keys().isdisjoint(searched) for shard in self._manifest.shards),
                "answered": len(answers),
                "vectors": self._manifest.vectors,
                "searched": sum(answer.searched for answer in answers),
                "degraded": [],
            },
            "results": [self._result(hit) for hit in hits],
            "took_ms": {"search": round((time.perf_counter() - begun) * 1000, 3)},
        }

    def _shown(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits without hidden products; an image that only those show is left out."""
        if self._hidden is None:
            return list(hits)
        shown = (dataclasses.replace(hit, products=self._hidden.without(hit.products)) for hit in hits)
        return [hit for hit in shown if hit.products]

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
            "distance": metrics.distance(hit.score, self._manifest.metric),
        }
