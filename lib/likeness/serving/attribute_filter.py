"""What a keyed store knows beside the index, and which products a filter by attributes lets pass."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from likeness.core.errors import UsageError
from likeness.index.shard import Hit
from likeness.storage import KeyedStore


class AttributeLookup:
    """What a keyed store, opened when it is asked first, knows of images in a space, and of products."""

    def __init__(self, store: Callable[[], KeyedStore], space: str) -> None:
        self._store, self._space = store, space

    def vectors(self, image_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Vectors, float32 (dim,), of the images that have one."""
        return self._store().get_vectors(self._space, image_ids)

    def attributes(self, product_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Attributes of the products that it has."""
        return {name: product.attributes for name, product in self._store().get_products(product_ids).items()}


class AttributeFilter:
    """Conditions on products' attributes, and which products meet them."""

    def __init__(self, conditions: Sequence[str], known: AttributeLookup | None) -> None:
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
