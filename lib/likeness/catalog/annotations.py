"""What is said of photos: the listings table in, products, categories and attributes by photo out."""

import json

from pydantic import BaseModel, ConfigDict

from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS

_COLUMNS = ("product_id", "image_id", "category", "attributes", "active")


class Annotation(BaseModel):
    """What the active listings say of a photo."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    products: frozenset[str]
    categories: frozenset[str]
    attributes: frozenset[tuple[str, str]]


def annotations(warehouse: TableReader, snapshot: int | None = None, below: str = "") -> dict[str, Annotation]:
    """What the active listings say of each photo, by image_id; of photos `below` one only, if it is named."""
    found: dict[str, tuple[set[str], set[str], set[tuple[str, str]]]] = {}
    where = f"image_id < '{below}'" if below else ""
    for batch in warehouse.batches(LISTINGS, _COLUMNS, where, snapshot):
        shown = batch.filter(batch.column("active"))
        columns = (shown.column(name).to_pylist() for name in _COLUMNS[:-1])
        for product, image_id, category, attributes in zip(*columns, strict=True):
            products, categories, told = found.setdefault(image_id, (set(), set(), set()))
            products.add(product)
            categories.add(category)
            told.update(json.loads(attributes or "{}").items())
    return {
        image_id: Annotation(products=frozenset(products), categories=frozenset(categories), attributes=frozenset(told))
        for image_id, (products, categories, told) in found.items()
    }
