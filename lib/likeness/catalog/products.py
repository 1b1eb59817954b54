"""Folds the listings of each product into the facts that the keyed store has of it."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from likeness.storage import Product

COLUMNS = ("product_id", "image_id", "uri", "category", "attributes", "active")


def fold(listings: Iterable[Mapping[str, Any]]) -> Iterator[Product]:
    """Folds the listings of each product into its facts.

    Category and attributes are those of the active listing with the first URI.

    Args:
        listings: rows with COLUMNS; the rows of a product follow each other.

    Yields:
        Each product. One without an active listing has no image_ids, and must be deleted from the store.
    """
    for product_id, rows in itertools.groupby(listings, key=lambda row: row["product_id"]):
        active = sorted(
            (row["uri"], row["category"], row["attributes"], row["image_id"]) for row in rows if row["active"]
        )
        if not active:
            yield Product(product_id, "", {}, ())
            continue
        _, category, attributes, _ = active[0]
        yield Product(product_id, category, json.loads(attributes), tuple(sorted({row[-1] for row in active})))
