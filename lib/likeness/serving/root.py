"""The root: query vectors in, the answer of the command contract out. No model, no shard of its own."""

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import ServiceError, UsageError
from likeness.index import distance
from likeness.index.manifest import Manifest
from likeness.index.shard import Hit, merge
from likeness.models.category_classifier import CategoryClassifier
from likeness.serving.attribute_filter import AttributeFilter, AttributeLookup
from likeness.serving.category_vote import Prediction, Voter
from likeness.serving.leaf import LeafAnswer, LeafPort, refuse_other

_CATEGORIES = 3
_WAITED_S = 0.2
_FIRST, _LOOKED = 64, 16384
"""Images whose attributes are looked at first, and at most."""


class CoverageError(ServiceError):
    """Fewer shards have answered than an answer was to be of."""


@dataclass(frozen=True)
class SearchParams:
    """What is wanted of an answer.

    `category` is `auto` for the best predicted ones, `all`, or a name. `offset` results are passed over, those of
    pages before. Results below `min_score` are left out; with `distinct`, so are further photos of a product that is
    in the answer already, and images whose cosine to a better one is `near_duplicate` or more. No answer is better than
    one of less than `min_coverage` of the shards that were asked. `where` is of `name=value`: products need such an
    attribute, for each name with one of its values.
    """

    k: int = 10
    category: str = "auto"
    offset: int = 0
    min_score: float = float("-inf")
    distinct: bool = False
    min_coverage: float = 0
    near_duplicate: float = float("inf")
    where: Sequence[str] = ()


class Root:
    """Answers queries about one build with what its leaf, or many that are as one, find."""

    def __init__(
        self,
        manifest: Manifest,
        leaf: LeafPort,
        hidden: HiddenProducts | None = None,
        recogniser: CategoryClassifier | None = None,
    ) -> None:
        self.manifest, self.recogniser, self._leaf, self._hidden = manifest, recogniser, leaf, hidden
        self._categories, self._voter = manifest.categories(), Voter(manifest, leaf)

    @property
    def whole(self) -> bool:
        """Whether every category has a say in predictions."""
        return len(self._voter.categories) == len(self._categories)

    def predict(self, vectors: np.ndarray) -> Prediction:
        """What a category model says of queries, float32 (dim,) or (q, dim); without one, the neighbours' vote."""
        return self._recognised(np.atleast_2d(vectors)) or self.vote(vectors)

    def _recognised(self, queries: np.ndarray) -> Prediction | None:
        known = self.recogniser.of_vectors(queries) if self.recogniser else None
        if not self.recogniser or known is None:
            return None
        return Prediction(self.recogniser.votes(known, self._categories))

    def vote(self, vectors: np.ndarray) -> Prediction:
        """What the neighbours of queries, float32 (dim,) or (q, dim), vote for."""
        return self._voter.vote(vectors)

    def search(
        self,
        vectors: np.ndarray,
        space: str,
        wish: SearchParams,
        told: Prediction | None = None,
        without: Collection[str] = (),
        known: AttributeLookup | None = None,
    ) -> dict[str, Any]:
        """Answers one query.

        Args:
            vectors: float32 (dim,), as the layer gives it; or (q, dim): an image is as near as to the nearest of them.
            space: their feature space.
            wish: what is wanted.
            told: the query's categories, where something else has said them.
            without: products that are no answer.
            known: by what near-duplicates and attributes are known; without it there are none.

        Raises:
            UsageError: no such category, or results that are not to be had.
            SpaceMismatch: the vectors are of another space.
            CoverageError: too few shards have answered.
        """
        if wish.k < 1:
            raise UsageError(f"k is {wish.k}; ask for at least 1 result")
        if wish.offset < 0:
            raise UsageError(f"offset is {wish.offset}; the first result is 0")
        begun = time.perf_counter()
        queries = np.atleast_2d(vectors)
        refuse_other(space, queries, self.manifest)
        voted = told if told and told.known else self.vote(queries)
        predicted = told or self._recognised(queries) or voted
        searched = self._choose(wish.category, voted)
        hits, answer = self._found(queries, space, wish, set(searched), without, known)
        asked = sum(not shard.categories.keys().isdisjoint(searched) for shard in self.manifest.shards)
        if len(answer.shards) < wish.min_coverage * asked:
            raise CoverageError(
                f"{len(answer.shards)} of {asked} shards have answered, min_coverage is {wish.min_coverage:g}: "
                + "; ".join(answer.degraded)
            )
        name, score = predicted.best
        return {
            "space": self.manifest.space,
            "build": self.manifest.build,
            "category": {"predicted": name, "score": round(score, 4), "searched": searched},
            "coverage": {
                "shards": asked,
                "answered": len(answer.shards),
                "vectors": self.manifest.vectors,
                "searched": answer.searched,
                "degraded": list(answer.degraded),
            },
            "results": [self._result(hit) for hit in hits],
            "took_ms": {"search": round((time.perf_counter() - begun) * 1000, 3)},
        }

    def _found(
        self,
        queries: np.ndarray,
        space: str,
        wish: SearchParams,
        categories: set[str],
        without: Collection[str],
        known: AttributeLookup | None,
    ) -> tuple[list[Hit], LeafAnswer]:
        """Asks for more until what may not be shown has left enough; never again where leaves were waited for."""
        enough, begun = wish.offset + wish.k, time.perf_counter()
        where = AttributeFilter(wish.where, known)
        wanted = max(enough + (len(queries) if without else 0), _FIRST if wish.where else 0)
        while True:
            answer = self._leaf.search(queries, wanted, space, categories)
            found = merge(answer.hits, wanted)
            hits = self._shown(found, wish, without, where)
            if known and wish.near_duplicate <= 1:
                hits = _unlike(hits, known.vectors([hit.image_id for hit in hits]), wish.near_duplicate)
            over = len(found) < wanted or found[-1].score < wish.min_score
            over |= bool(answer.degraded) and time.perf_counter() - begun > _WAITED_S
            if len(hits) >= enough or over:
                return hits[wish.offset : enough], answer
            if wish.where and wanted >= _LOOKED:
                told = (
                    f"where: of the {wanted} nearest images {len(hits)} are of such products, others were not looked at"
                )
                return hits[wish.offset :], dataclasses.replace(answer, degraded=[*answer.degraded, told])
            wanted *= 4 if wish.where else 2

    def _shown(
        self, found: Sequence[Hit], wish: SearchParams, without: Collection[str], where: AttributeFilter
    ) -> list[Hit]:
        """The hits without hidden products and those left out; an image that only those show goes with them."""
        shown, seen = [], set[str]()
        where.look(found)
        for hit in found:
            products = self._hidden.without(hit.products) if self._hidden else hit.products
            products = tuple(name for name in products if name not in without) if without else products
            products = tuple(name for name in products if name in where)
            if wish.distinct:
                products = tuple(name for name in products if name not in seen)
                seen.update(products)
            if products and hit.score >= wish.min_score:
                shown.append(hit if products == hit.products else dataclasses.replace(hit, products=products))
        return shown

    def _choose(self, category: str, predicted: Prediction) -> list[str]:
        if category == "all" or (category == "auto" and not predicted.votes):
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
            "distance": distance.distance(hit.score, self.manifest.metric),
        }


def _unlike(hits: Sequence[Hit], vectors: Mapping[str, np.ndarray], most: float) -> list[Hit]:
    """The hits whose cosine to every one before them that stays is below `most`; those without a vector stay."""
    known = [hit for hit in hits if hit.image_id in vectors]
    if not known:
        return list(hits)
    unit = distance.prepared(np.stack([vectors[hit.image_id] for hit in known]), "cosine")
    alike, stay = unit @ unit.T >= most, list[int]()
    for row in range(len(known)):
        if not alike[row, stay].any():
            stay.append(row)
    gone = {hit.image_id for hit in known} - {known[row].image_id for row in stay}
    return [hit for hit in hits if hit.image_id not in gone]
