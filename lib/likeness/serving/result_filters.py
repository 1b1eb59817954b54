"""Result filters: a chain of steps, each with hits in and the hits that stay out, in the same order.

A filter of products drops products from hits; a hit without any product left goes.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import UsageError
from likeness.index import distance
from likeness.index.shard import Hit
from likeness.serving.hints import suggest
from likeness.serving.keyed_reader import KeyedReader
from likeness.serving.search_params import SearchParams
from likeness.storage.items import Item

_OPERATORS = ("<", ">", "!", "~")
"""With these, other search languages compare; attributes are compared by `=` alone."""


class ResultFilter(Protocol):
    """One step of the chain."""

    def __call__(self, hits: Sequence[Hit], /) -> list[Hit]:
        """The hits that stay, in their order; the nearest come first."""


class AttributeLookup:
    """Vectors of images in one space, and attributes of products."""

    def __init__(self, keyed: KeyedReader, space: str) -> None:
        self._keyed, self._space = keyed, space

    def vectors(self, image_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Vectors, float32 (dim,), of the images that have one."""
        rows = self._keyed.vectors(self._space, list(map(Item, image_ids)))
        return {item.image_id: vector for item, vector in rows.items()}

    def attributes(self, product_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Attributes of the products that the store holds."""
        return {name: product.attributes for name, product in self._keyed.products(product_ids).items()}


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
    chain: list[ResultFilter] = [partial(keep_products, hidden.without)] if hidden else []
    if excluded:
        chain.append(partial(keep_products, lambda names: tuple(name for name in names if name not in excluded)))
    if params.where:
        chain.append(AttributeFilter(params.where, lookup))
    if params.distinct:
        chain.append(distinct_products)
    if params.min_score > float("-inf"):
        chain.append(lambda hits: [hit for hit in hits if hit.score >= params.min_score])
    if lookup and params.near_duplicate <= 1:
        chain.append(partial(drop_near_duplicates, params.near_duplicate, lookup, params.offset + params.k))
    return chain


def keep_products(keep: Callable[[tuple[str, ...]], tuple[str, ...]], hits: Iterable[Hit]) -> list[Hit]:
    """Keeps the products of each hit that `keep` gives back, and the hits that have any."""
    kept = []
    for hit in hits:
        products = keep(hit.products)
        if products:
            kept.append(hit if products == hit.products else dataclasses.replace(hit, products=products))
    return kept


class AttributeFilter:
    """Keeps products that meet conditions `name=value`; it looks up those of all hits at once, and each only once.

    It notes what it has looked at, so that it can say which conditions nothing could meet.
    """

    def __init__(self, conditions: Sequence[str], lookup: AttributeLookup | None) -> None:
        """Reads the conditions.

        Raises:
            UsageError: one has another form, or there is no lookup.
        """
        self._accepted, self._matches = dict[str, set[str]](), dict[str, bool]()
        for text in conditions:
            name, value = read_condition(text)
            self._accepted.setdefault(name, set()).add(value)
        if lookup is None:
            raise UsageError("where: attributes cannot be looked up, for no keyed store is open here")
        self._lookup = lookup
        self._seen: dict[str, set[str]] = {name: set() for name in self._accepted}
        self._names, self._with_facts = set[str](), 0

    def __call__(self, hits: Sequence[Hit], /) -> list[Hit]:
        """The hits with a product that meets all conditions."""
        new = list({name for hit in hits for name in hit.products} - self._matches.keys())
        attributes = self._lookup.attributes(new) if new else {}
        self._with_facts += len(attributes)
        for product_id in new:
            values = attributes.get(product_id, {})
            self._matches[product_id] = all(values.get(key) in allowed for key, allowed in self._accepted.items())
            self._names.update(values)
            for name in self._accepted.keys() & values:
                self._seen[name].add(values[name])
        return keep_products(lambda names: tuple(name for name in names if self._matches[name]), hits)

    def hints(self, enough: bool) -> list[str]:
        """What is wrong with the conditions, as far as can be seen; `enough`: whether as many results as asked passed.

        No product has an attribute of that name; or none has the value, which may also be so by chance if there are
        enough results, so then only values in other case are named.
        """
        if not self._with_facts:
            count = len(self._matches)
            return [f"where: the keyed store has no facts of the {count:,} products looked at"] if count else []
        of = f"of the {self._with_facts:,} products looked at"
        hints = []
        for name, accepted in self._accepted.items():
            seen = self._seen[name]
            if name not in self._names:
                hints.append(f"where: none {of} has an attribute {name[:80]!r}; {suggest(name, self._names)}")
                continue
            for value in sorted(accepted - seen):
                if not enough or value.strip().casefold() in {one.strip().casefold() for one in seen}:
                    what = f"where: none {of} has {name[:80]}={value[:80]!r}, and only whole values are compared"
                    hints.append(f"{what}; {suggest(value, seen)}")
        return hints


def read_condition(text: str) -> tuple[str, str]:
    """Splits a condition `name=value` on an attribute.

    Raises:
        UsageError: it has another form, or another operator than `=`.
    """
    name, equals, value = text.partition("=")
    if name.rstrip().endswith(_OPERATORS) or value.startswith("=") or (not equals and any(map(name.count, _OPERATORS))):
        raise UsageError(
            f"where {text[:80]!r}: there is no operator but =; write name=value, and one name several times "
            "for any of several values"
        )
    if not name or not equals:
        raise UsageError(f"where {text[:80]!r} is not name=value, such as color=red")
    return name, value


def distinct_products(hits: Sequence[Hit]) -> list[Hit]:
    """Drops products that a better hit shows."""
    seen = set[str]()

    def unseen(names: tuple[str, ...]) -> tuple[str, ...]:
        new = tuple(name for name in names if name not in seen)
        seen.update(new)
        return new

    return keep_products(unseen, hits)


def drop_near_duplicates(limit: float, lookup: AttributeLookup, most: int, hits: Sequence[Hit]) -> list[Hit]:
    """Drops hits whose cosine to a better hit that stays is `limit` or more; those without a stored vector stay.

    It ends once `most` hits stay. Memory is that of the vectors of the hits: none is compared with those dropped.
    """
    vectors = lookup.vectors([hit.image_id for hit in hits])
    kept, unit = list[Hit](), np.empty((most, len(next(iter(vectors.values()), ()))), np.float32)
    rows = 0
    for hit in hits:
        if (vector := vectors.get(hit.image_id)) is not None:
            prepared = distance.prepared(vector[None], "cosine")[0]
            if (unit[:rows] @ prepared >= limit).any():
                continue
            unit[rows], rows = prepared, rows + 1
        kept.append(hit)
        if len(kept) == most:
            break
    return kept
