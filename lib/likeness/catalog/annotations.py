"""Annotations: the products, categories and attributes of each photo, read from the listings table."""

import json

from likeness.storage.artifact import FrozenModel
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS

_COLUMNS = ("product_id", "image_id", "category", "attributes", "active")


class Annotation(FrozenModel):
    """Products, categories and attributes (name, value) of all active listings of a photo."""

    products: frozenset[str]
    categories: frozenset[str]
    attributes: frozenset[tuple[str, str]]


def annotations(tables: TableReader, snapshot: int | None = None, below: str = "") -> dict[str, Annotation]:
    """Reads the annotation of each photo with an active listing, by image_id.

    Args:
        tables: the tables of a root.
        snapshot: of the listings table; the current one by default.
        below: only photos with a smaller image_id; empty for all.
    """
    photos: dict[str, tuple[set[str], set[str], set[tuple[str, str]]]] = {}
    where = f"image_id < '{below}'" if below else ""
    for batch in tables.batches(LISTINGS, _COLUMNS, where, snapshot):
        active = batch.filter(batch.column("active"))
        columns = (active.column(name).to_pylist() for name in _COLUMNS[:-1])
        for product, image_id, category, values in zip(*columns, strict=True):
            products, categories, attributes = photos.setdefault(image_id, (set(), set(), set()))
            products.add(product)
            categories.add(category)
            attributes.update(json.loads(values or "{}").items())
    return {key: Annotation(products=p, categories=c, attributes=a) for key, (p, c, a) in photos.items()}
