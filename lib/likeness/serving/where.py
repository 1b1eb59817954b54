"""Which products are wanted by their attributes: what a keyed store knows decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness.errors import UsageError
from likeness.indexes.search import Hit


@dataclass(frozen=True)
class Known:
    """What a store knows: vectors, float32 (dim,), by image id, and attributes by product id, of those that it has."""

    vectors: Callable[[Sequence[str]], Mapping[str, np.ndarray]]
    attributes: Callable[[Sequence[str]], Mapping[str, Mapping[str, str]]]


class Where:
    """Conditions on products' attributes, and which products meet them."""

    def __init__(self, conditions: Sequence[str], known: Known | None) -> None:
        """`conditions` are of `name=value`.

        Raises:
            UsageError: one is not, or there is no store that knows attributes.
        """
        self._values: dict[str, set[str]] = {}
        for text in conditions:
            name, equals, value = text.partition("=")
            if not name or not equals:
                raise UsageError(f"where {text[:80]!r} is not name=value, as color=red")
            self._values.setdefault(name, set()).add(value)
        if conditions and known is None:
            raise UsageError("where: there is no keyed store here that knows attributes")
        self._known, self._met = known, dict[str, bool]()

    def look(self, hits: Sequence[Hit]) -> None:
        """Looks up the attributes of products that are met for the first time, all at once."""
        new = list({name for hit in hits for name in hit.products} - self._met.keys()) if self._values else []
        if new and self._known:
            found = self._known.attributes(new)
            for name in new:
                attributes = found.get(name, {})
                self._met[name] = all(attributes.get(key) in values for key, values in self._values.items())

    def __contains__(self, product_id: object) -> bool:
        """Whether a product that was looked at meets all conditions."""
        return not self._values or self._met.get(str(product_id), False)
