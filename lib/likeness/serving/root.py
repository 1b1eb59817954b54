"""The root: query vectors in, the answer of a search out. It runs no model and holds no shard itself."""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import TypeAdapter

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import ServiceError, UsageError
from likeness.index import distance
from likeness.index.manifest import Manifest
from likeness.index.shard import Hit, merge
from likeness.models.category_classifier import CategoryClassifier
from likeness.serving.category_vote import Prediction, Voter
from likeness.serving.hints import explain_no_results, suggest
from likeness.serving.leaf import LeafAnswer, LeafPort, LeafQuery, check_space
from likeness.serving.responses import Answer, Category, Coverage, Result
from likeness.serving.result_filters import AttributeFilter, AttributeLookup, filter_chain
from likeness.serving.search_params import SearchParams

_RESULTS = TypeAdapter(tuple[Result, ...])
_CATEGORIES = 3
_WIDEN_S = 0.2
"""Seconds after which a degraded search is not widened any more."""
_WHERE_FIRST = 64
"""Images whose attributes are looked up first."""
_MOST, _MOST_COMPARED = 16384, 4096
"""The nearest images that filters look at, at most; and if they compare vectors."""


class CoverageError(ServiceError):
    """Fewer shards answered than `min_coverage` demands."""


@dataclass(frozen=True)
class Facts:
    """What results say beside their hits: attributes by product, a URL for each hit, why some lack, and the time."""

    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    url: Callable[[Hit], str] = lambda hit: ""
    degraded: Sequence[str] = ()
    took_ms: Mapping[str, float] = field(default_factory=dict)


class Root:
    """Answers queries about one build with the hits of its leaf, or of many leaves behind one interface."""

    def __init__(
        self,
        manifest: Manifest,
        leaf: LeafPort,
        hidden: HiddenProducts | None = None,
        classifier: CategoryClassifier | None = None,
    ) -> None:
        self.manifest, self.classifier, self._leaf, self._hidden = manifest, classifier, leaf, hidden
        self.categories, self._voter = manifest.categories(), Voter(manifest, leaf)
        self._all = tuple(self.categories)

    @property
    def whole(self) -> bool:
        """Whether the sample that predicts categories lacks nothing; see `Voter`."""
        return self._voter.whole

    def predict(self, vectors: np.ndarray) -> Prediction:
        """Predicts categories of queries, float32 (dim,) or (q, dim), by the classifier or else the neighbours."""
        return self._classify(np.atleast_2d(vectors)) or self._voter.vote(vectors)

    def search(
        self,
        vectors: np.ndarray,
        space: str,
        params: SearchParams,
        prediction: Prediction | None = None,
        excluded: Collection[str] = (),
        lookup: AttributeLookup | None = None,
        describe: Callable[[Sequence[Hit]], Facts] = lambda hits: Facts(),
    ) -> Answer:
        """Answers one query.

        Args:
            vectors: float32 (dim,), as the layer gives it; or (q, dim): the nearest of them gives an image its score.
            space: the feature space of the vectors.
            params: of the search.
            prediction: the query's categories, where the caller has predicted them.
            excluded: products that the answer must not show.
            lookup: gives the vectors for near-duplicates and the attributes for `where`.
            describe: gives the facts of the results.

        Raises:
            UsageError: there is no such category, or `where` is malformed.
            SpaceMismatch: the vectors are of another space.
            CoverageError: too few shards answered.
        """
        start = time.perf_counter()
        queries = np.atleast_2d(vectors)
        check_space(space, queries, self.manifest)
        votes = prediction if prediction and prediction.restricts else self._voter.vote(queries)
        predicted = prediction or self._classify(queries) or votes
        searched = self._select_categories(params.category, votes)
        hits, answer, hints = self._search_leaf(queries, params, searched, excluded, lookup)
        covers = LeafQuery(queries, 0, self.manifest.space, self._restriction(searched)).covers
        shards = sum(map(covers, self.manifest.shards))
        if len(answer.shards) < params.min_coverage * shards:
            raise CoverageError(
                f"{len(answer.shards)} of {shards} shards have answered, min_coverage is {params.min_coverage:g}: "
                + "; ".join(answer.degraded)
            )
        name, score = predicted.best
        took_ms, facts = {"search": milliseconds(start)}, describe(hits)
        problems = (*answer.degraded, *filter(None, [self._hidden and self._hidden.problem]), *facts.degraded)
        return Answer(
            space=self.manifest.space,
            build=self.manifest.build,
            category=Category(predicted=name, score=round(score, 4), searched=tuple(searched)),
            coverage=Coverage(
                shards=shards,
                answered=len(answer.shards),
                vectors=self.manifest.vectors,
                searched=answer.searched,
                degraded=problems,
            ),
            results=self._results(hits, facts),
            hints=tuple(hints),
            took_ms={**took_ms, **facts.took_ms},
        )

    def _classify(self, queries: np.ndarray) -> Prediction | None:
        if self.classifier and (probabilities := self.classifier.predict_vectors(queries)) is not None:
            return Prediction(self.classifier.rank_categories(probabilities, self.categories))
        return None

    def _search_leaf(
        self,
        queries: np.ndarray,
        params: SearchParams,
        categories: Sequence[str],
        excluded: Collection[str],
        lookup: AttributeLookup | None,
    ) -> tuple[list[Hit], LeafAnswer, list[str]]:
        """Searches for more hits until the filters leave enough; stops early where leaves kept it waiting.

        Returns:
            The hits, the answer of the leaf, and hints at what may be wrong with the parameters.
        """
        chain = filter_chain(params, self._hidden, excluded, lookup)
        needed, start = params.offset + params.k, time.perf_counter()
        most = max(needed, _MOST_COMPARED if params.near_duplicate <= 1 else _MOST)
        count = max(needed + (len(queries) if excluded else 0), _WHERE_FIRST if params.where else 0)
        within = self._restriction(categories)
        while True:
            answer = self._leaf.search(LeafQuery(queries, count, self.manifest.space, within))
            hits = nearest = merge(answer.hits, count)
            for keep in chain:
                hits = keep(hits)
            exhausted = len(nearest) < count or nearest[-1].score < params.min_score
            late = bool(answer.degraded) and time.perf_counter() - start > _WIDEN_S
            if count >= most and not (len(hits) >= needed or exhausted or late):
                reason = f"{len(hits)} of the {count} nearest images pass the filters, further ones were not looked at"
                answer, late = dataclasses.replace(answer, degraded=[*answer.degraded, reason]), True
            if len(hits) >= needed or exhausted or late:
                conditions = (keep for keep in chain if isinstance(keep, AttributeFilter))
                hints = [text for keep in conditions for text in keep.hints(len(hits) >= needed)]
                if len(hits) <= params.offset and not hints and not answer.degraded:
                    hints.append(explain_no_results(params, nearest, len(hits), categories))
                return hits[params.offset : needed], answer, hints
            count = min(count * (4 if params.where else 2), most)

    def _select_categories(self, category: str, votes: Prediction) -> Sequence[str]:
        if category == "all" or (category == "auto" and not votes.votes):
            return self._all
        if category == "auto":
            return [name for name, _ in votes.votes[:_CATEGORIES]]
        if category in self.categories:
            return [category]
        closest = suggest(category, ["auto", "all", *self.categories])
        raise UsageError(f"category {category[:200]!r} does not exist; {closest}")

    def _restriction(self, categories: Sequence[str]) -> frozenset[str] | None:
        """The categories as a leaf takes them: all are not named, for there may be thousands."""
        return None if categories is self._all else frozenset(categories)

    def _results(self, hits: Sequence[Hit], facts: Facts) -> tuple[Result, ...]:
        """All at once, which takes a third of the time that one by one would."""
        manifest = self.manifest
        return _RESULTS.validate_python(
            [
                {
                    **vars(hit),
                    "product_id": hit.products[0],
                    "distance": distance.distance(hit.score, manifest.metric),
                    "attributes": facts.attributes.get(hit.products[0], {}),
                    "url": facts.url(hit),
                    "space": manifest.space,
                    "build": manifest.build,
                }
                for hit in hits
            ]
        )


def milliseconds(start: float) -> float:
    """Milliseconds since a time of `time.perf_counter`, for `took_ms`."""
    return round((time.perf_counter() - start) * 1000, 3)
