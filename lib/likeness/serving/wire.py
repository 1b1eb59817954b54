"""What travels between a root and a leaf: questions as tickets, answers as Arrow tables.   [pyarrow]"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from likeness.index.shard import Hit
from likeness.serving.leaf import LeafAnswer

# a hit's members in their order, and the number of the query before them
_HITS = pa.schema(
    [
        ("query", pa.int32()),
        ("score", pa.float64()),
        ("image_id", pa.string()),
        ("category", pa.string()),
        ("uri", pa.string()),
        ("products", pa.list_(pa.string())),
    ]
)


def to_ticket(asked: Mapping[str, Any], queries: np.ndarray | None = None) -> bytes:
    """What is asked as a line of JSON, and queries, float32 (q, dim), as they lie in memory."""
    rows = np.zeros((0, 0), "<f4") if queries is None else np.ascontiguousarray(queries, "<f4")
    return json.dumps({**asked, "queries": rows.shape}).encode() + b"\n" + rows.tobytes()


def from_ticket(ticket: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """What `to_ticket` made bytes of."""
    line, _, rows = ticket.partition(b"\n")
    asked = json.loads(line)
    return asked, np.frombuffer(rows, "<f4").reshape(asked["queries"])


def to_hit(found: Mapping[str, Any]) -> Hit:
    """A hit of its members, as JSON and Arrow have them."""
    return Hit(**{**found, "products": tuple(found["products"])})


def from_answer(answer: LeafAnswer) -> pa.Table:
    """An answer as a row a hit; the rest is in the table's metadata."""
    rows = [(number, *vars(hit).values()) for number, hits in enumerate(answer.hits) for hit in hits]
    columns = zip(*rows, strict=True) if rows else [()] * len(_HITS)
    table = pa.table([pa.array(column, kind.type) for column, kind in zip(columns, _HITS, strict=True)], _HITS)
    told = {"queries": len(answer.hits), "searched": answer.searched, "shards": list(answer.shards)}
    return table.replace_schema_metadata({"answer": json.dumps(told)})


def to_answer(table: pa.Table) -> LeafAnswer:
    """What `from_answer` made a table of."""
    told = json.loads(table.schema.metadata[b"answer"])
    hits: list[list[Hit]] = [[] for _ in range(told["queries"])]
    for query, score, image_id, category, uri, products in zip(
        *map(pa.ChunkedArray.to_pylist, table.columns), strict=True
    ):
        hits[query].append(Hit(score, image_id, category, uri, tuple(products)))
    return LeafAnswer(told["shards"], told["searched"], hits)


def from_samples(samples: Mapping[str, np.ndarray]) -> pa.Table:
    """Vectors by category, float32 (n, dim), as a row a vector."""
    dim = next((rows.shape[1] for rows in samples.values()), 1)
    rows = np.concatenate([*samples.values(), np.zeros((0, dim), np.float32)])
    names = [name for name, part in samples.items() for _ in range(len(part))]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), dim)
    return pa.table({"category": pa.array(names, pa.string()), "vector": vectors})


def to_samples(table: pa.Table) -> dict[str, np.ndarray]:
    """What `from_samples` made a table of."""
    column = table.column("vector").combine_chunks()
    rows = column.flatten().to_numpy().reshape(len(column), -1) if len(column) else np.zeros((0, 1), np.float32)
    names = np.array(table.column("category").to_pylist())
    return {str(name): rows[names == name] for name in np.unique(names)}
