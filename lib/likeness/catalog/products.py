"""Folds the listings of each product into the facts that the keyed store has of it."""

import itertools
import json
from collections.abc import Iterable, Iterator

import pyarrow as pa

from likeness.storage import Product

COLUMNS = ("product_id", "image_id", "uri", "category", "attributes", "active")


def fold(batches: Iterable[pa.RecordBatch]) -> Iterator[Product]:
    """Folds the listings of each product into its facts.

    Category and attributes are those of the active listing with the first URI.

    Args:
        batches: listings with COLUMNS; those of a product follow each other.

    Yields:
        Each product. One without an active listing has no image_ids, and must be deleted from the store.
    """
    listings = (row for batch in batches for row in batch.to_pylist())
    for product_id, rows in itertools.groupby(listings, key=lambda row: row["product_id"]):
        active = [row for row in rows if row["active"]]
        if not active:
            yield Product(product_id, "", {}, ())
            continue
        first = min(active, key=lambda row: (row["uri"], row["category"], row["attributes"]))
        image_ids = tuple(sorted({row["image_id"] for row in active}))
        yield Product(product_id, first["category"], json.loads(first["attributes"]), image_ids)
