"""Product attributes at query time: looks them up in the keyed store, and matches them with `name=value`."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from likeness.core.errors import UsageError
from likeness.storage import KeyedStore
from likeness.storage.items import Item


class AttributeLookup:
    """Vectors of images in one space, and attributes of products, from a keyed store that opens on first use."""

    def __init__(self, store: Callable[[], KeyedStore], space: str) -> None:
        self._store, self._space = store, space

    def vectors(self, image_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Vectors, float32 (dim,), of the images that have one."""
        rows = self._store().get_vectors(self._space, list(map(Item, image_ids)))
        return {item.image_id: vector for item, vector in rows.items()}

    def attributes(self, product_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Attributes of the products that the store holds."""
        return {name: product.attributes for name, product in self._store().get_products(product_ids).items()}


class AttributeMatcher:
    """Conditions on product attributes; remembers which products matched."""

    def __init__(self, conditions: Sequence[str], lookup: AttributeLookup | None) -> None:
        """Parses conditions of the form `name=value`.

        Raises:
            UsageError: a condition has another form, or there is no lookup.
        """
        self._accepted: dict[str, set[str]] = {}
        for text in conditions:
            name, equals, value = text.partition("=")
            if not name or not equals:
                raise UsageError(f"where {text[:80]!r} is not name=value, such as color=red")
            self._accepted.setdefault(name, set()).add(value)
        if lookup is None:
            raise UsageError("where: attributes cannot be looked up, for no keyed store is open here")
        self._lookup, self._matches = lookup, dict[str, bool]()

    def matching(self, product_ids: Collection[str]) -> set[str]:
        """The products that meet all conditions; those not seen before are looked up together."""
        new = [name for name in product_ids if name not in self._matches]
        attributes = self._lookup.attributes(new) if new else {}
        for name in new:
            values = attributes.get(name, {})
            self._matches[name] = all(values.get(key) in accepted for key, accepted in self._accepted.items())
        return {name for name in product_ids if self._matches[name]}
