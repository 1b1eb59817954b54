"""What travels between a root and a leaf, as Arrow tables.   [pyarrow]"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from likeness.indexes.search import Hit
from likeness.serving.leaf import LeafAnswer

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


def to_hit(found: Mapping[str, Any]) -> Hit:
    """A hit of its members, as JSON and Arrow have them."""
    return Hit(**{**found, "products": tuple(found["products"])})


def from_answer(answer: LeafAnswer) -> pa.Table:
    """An answer as a row a hit; the rest is in the table's metadata."""
    rows = [{"query": number, **vars(hit)} for number, hits in enumerate(answer.hits) for hit in hits]
    told = {"queries": len(answer.hits), "searched": answer.searched, "shards": list(answer.shards)}
    table = pa.Table.from_pylist(rows, _HITS)
    return table.replace_schema_metadata({"answer": json.dumps(told)})


def to_answer(table: pa.Table) -> LeafAnswer:
    """What `from_answer` made a table of."""
    told = json.loads(table.schema.metadata[b"answer"])
    hits: list[list[Hit]] = [[] for _ in range(told["queries"])]
    for row in table.to_pylist():
        hits[row.pop("query")].append(to_hit(row))
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
