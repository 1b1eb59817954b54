"""Ids inside an index, and the map from them to images."""

import pyarrow as pa

SHOWN = pa.list_(pa.struct([("category", pa.string()), ("uri", pa.string()), ("products", pa.list_(pa.string()))]))
"""In which categories an image is shown: from where, and by which products; sorted by category."""
IDS = pa.schema([("id", pa.int64()), ("image_id", pa.string()), ("shown", SHOWN)])
"""The id map of a shard, sorted by id."""


def faiss_id(image_id: str) -> int:
    """The first 63 bits of the image_id: stable, positive, never a position."""
    return int(image_id[:16], 16) >> 1
