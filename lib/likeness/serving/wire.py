"""Wire format between a root and a leaf: a line of JSON, then vectors as float32, little-endian."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from likeness.index.shard import Hit

NO_VECTORS = np.zeros((0, 1), np.float32)


def pack(fields: Mapping[str, Any], vectors: np.ndarray = NO_VECTORS) -> bytes:
    """Joins fields and vectors (n, dim); a set becomes a sorted list."""
    line = json.dumps({**fields, "shape": vectors.shape}, default=sorted)
    return line.encode() + b"\n" + np.ascontiguousarray(vectors, "<f4").tobytes()


def unpack(data: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """Splits what `pack` has joined."""
    line, _, rows = data.partition(b"\n")
    fields = json.loads(line)
    return fields, np.frombuffer(rows, "<f4").reshape(fields.pop("shape"))


def from_hits(hits: Sequence[Hit]) -> list[list[Any]]:
    """Converts hits to JSON: the fields of each in their order."""
    return [list(vars(hit).values()) for hit in hits]


def to_hits(rows: Sequence[Sequence[Any]]) -> list[Hit]:
    """Converts the lists of `from_hits` back."""
    return [
        Hit(score, image_id, category, uri, tuple(products), region)
        for score, image_id, category, uri, products, region in rows
    ]
