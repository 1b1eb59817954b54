"""Result filters: a chain of steps, each with hits in and the hits that stay out, in the same order.

A hit stays as long as one of its products does; a filter of products drops the others from it.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from likeness.catalog.hidden_products import HiddenProducts
from likeness.index import distance
from likeness.index.shard import Hit
from likeness.serving.attribute_filter import AttributeLookup, AttributeMatcher
from likeness.serving.search_params import SearchParams


class ResultFilter(Protocol):
    """One step of a chain of filters: hits in, those that stay out."""

    def __call__(self, hits: Sequence[Hit]) -> list[Hit]:
        """The hits that stay, in their order; the nearest come first."""
        ...


@dataclass(frozen=True)
class HideProducts:
    """Drops hidden products."""

    hidden: HiddenProducts

    def __call__(self, hits: Sequence[Hit]) -> list[Hit]:
        """Keeps hits with a visible product."""
        return _keep_products(hits, self.hidden.without)


@dataclass(frozen=True)
class ExcludeProducts:
    """Drops named products, such as the one that a query is about."""

    products: Collection[str]

    def __call__(self, hits: Sequence[Hit]) -> list[Hit]:
        """Keeps hits with another product."""
        return _keep_products(hits, lambda names: tuple(name for name in names if name not in self.products))


@dataclass(frozen=True)
class MatchAttributes:
    """Drops products without the attributes of `where`; looks up the attributes of all hits at once."""

    matcher: AttributeMatcher

    def __call__(self, hits: Sequence[Hit]) -> list[Hit]:
        """Keeps hits with a product that matches."""
        matching = self.matcher.matching({name for hit in hits for name in hit.products})
        return _keep_products(hits, lambda names: tuple(name for name in names if name in matching))


class DistinctProducts:
    """Drops products that a better hit shows."""

    def __call__(self, hits: Sequence[Hit]) -> list[Hit]:
        """Keeps hits with a product that no better hit shows."""
        seen = set[str]()

        def unseen(names: tuple[str, ...]) -> tuple[str, ...]:
            new = tuple(name for name in names if name not in seen)
            seen.update(new)
            return new

        return _keep_products(hits, unseen)


@dataclass(frozen=True)
class MinScore:
    """Drops hits below a score."""

    score: float

    def __call__(self, hits: Sequence[Hit]) -> list[Hit]:
        """Keeps hits of the score or a higher one."""
        return [hit for hit in hits if hit.score >= self.score]


@dataclass(frozen=True)
class DropNearDuplicates:
    """Drops hits whose cosine to a better hit that stays is `limit` or more; those without a stored vector stay."""

    limit: float
    lookup: AttributeLookup

    def __call__(self, hits: Sequence[Hit]) -> list[Hit]:
        """Keeps the best hit of each group of near-duplicates."""
        vectors = self.lookup.vectors([hit.image_id for hit in hits])
        compared = [hit for hit in hits if hit.image_id in vectors]
        if not compared:
            return list(hits)
        unit = distance.prepared(np.stack([vectors[hit.image_id] for hit in compared]), "cosine")
        similar, kept = unit @ unit.T >= self.limit, list[int]()
        for row in range(len(compared)):
            if not similar[row, kept].any():
                kept.append(row)
        dropped = {hit.image_id for hit in compared} - {compared[row].image_id for row in kept}
        return [hit for hit in hits if hit.image_id not in dropped]


def filter_chain(
    params: SearchParams,
    hidden: HiddenProducts | None = None,
    excluded: Collection[str] = (),
    lookup: AttributeLookup | None = None,
) -> list[ResultFilter]:
    """The filters that a search needs, in the order in which they apply.

    Args:
        params: of the search.
        hidden: products that no answer shows.
        excluded: products that this answer must not show.
        lookup: gives attributes and vectors; without it, near-duplicates stay.

    Raises:
        UsageError: `where` is malformed, or there is no lookup for it.
    """
    chain: list[ResultFilter] = [HideProducts(hidden)] if hidden else []
    if excluded:
        chain.append(ExcludeProducts(excluded))
    if params.where:
        chain.append(MatchAttributes(AttributeMatcher(params.where, lookup)))
    if params.distinct:
        chain.append(DistinctProducts())
    if params.min_score > float("-inf"):
        chain.append(MinScore(params.min_score))
    if lookup and params.near_duplicate <= 1:
        chain.append(DropNearDuplicates(params.near_duplicate, lookup))
    return chain


def apply_filters(hits: Sequence[Hit], chain: Iterable[ResultFilter]) -> list[Hit]:
    """Passes hits through a chain of filters."""
    kept = list(hits)
    for step in chain:
        kept = step(kept)
    return kept


def _keep_products(hits: Iterable[Hit], keep: Callable[[tuple[str, ...]], tuple[str, ...]]) -> list[Hit]:
    """Hits with the products that `keep` leaves of theirs; a hit without any goes."""
    kept = []
    for hit in hits:
        products = keep(hit.products)
        if products:
            kept.append(hit if products == hit.products else dataclasses.replace(hit, products=products))
    return kept
