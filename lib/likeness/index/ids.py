"""Ids inside an index, and the id map of a shard: from ids to items and the products that show them."""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from likeness.storage.items import WHOLE_PHOTO, Item

SHOWN = pa.list_(pa.struct([("category", pa.string()), ("uri", pa.string()), ("products", pa.list_(pa.string()))]))
"""The categories that show an image: the URI and the products of each; sorted by category."""
IDS = pa.schema([("id", pa.int64()), ("image_id", pa.string()), ("region", pa.string()), ("shown", SHOWN)])
"""The id map of a shard, sorted by id."""


def digest(image_id: str, region: str = WHOLE_PHOTO) -> str:
    """The hexadecimal SHA-256 of an item: the `image_id` of a whole photo, that of `image_id/region` of a region."""
    return hashlib.sha256(Item(image_id, region).key.encode()).hexdigest() if region else image_id


def faiss_id(image_id: str, region: str = WHOLE_PHOTO) -> int:
    """The first 63 bits of the item's digest: stable, positive, never a position."""
    return int(digest(image_id, region)[:16], 16) >> 1


def read_id_map(source: Any) -> pa.Table:
    """Reads an id map, `IDS`. One without the column `region` is of whole photos.

    Args:
        source: an open Arrow file, or a memory map of one.

    Raises:
        pyarrow.ArrowException: the file is damaged.
    """
    ids = pa.ipc.open_file(source).read_all()
    if "region" in ids.column_names:
        return ids
    return ids.add_column(2, IDS.field("region"), pa.repeat(WHOLE_PHOTO, len(ids)))


def count_regions(ids: pa.Table) -> int:
    """Counts the rows that are regions, not whole photos."""
    return int(pc.sum(pc.not_equal(ids["region"], WHOLE_PHOTO)).as_py() or 0)
