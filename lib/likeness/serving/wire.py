"""Wire format between a root and a leaf: requests as tickets, answers as Arrow tables.   [pyarrow]"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from likeness.index.shard import Hit
from likeness.serving.leaf import LeafAnswer, LeafQuery

# the number of the query, then the fields of a hit in their order
_HITS = pa.schema(
    [
        ("query", pa.int32()),
        ("score", pa.float64()),
        ("image_id", pa.string()),
        ("category", pa.string()),
        ("uri", pa.string()),
        ("products", pa.list_(pa.string())),
        ("region", pa.string()),
    ]
)


@dataclass(frozen=True)
class SearchTicket:
    """A search of a leaf's shards of a build (`space/build`)."""

    build: str
    query: LeafQuery

    def to_bytes(self) -> bytes:
        """A line of JSON, then the vectors as float32, little-endian."""
        query, rows = self.query, np.ascontiguousarray(self.query.vectors, "<f4")
        fields = {"what": "search", "build": self.build, "k": query.k, "space": query.space, "queries": rows.shape}
        fields["categories"] = None if query.categories is None else sorted(query.categories)
        fields["shards"] = None if query.shards is None else sorted(query.shards)
        return json.dumps(fields).encode() + b"\n" + rows.tobytes()


@dataclass(frozen=True)
class SampleTicket:
    """A sample of about `rows` vectors of a build, as far as they are in some shards."""

    build: str
    rows: int
    shards: Sequence[int]

    def to_bytes(self) -> bytes:
        """A line of JSON."""
        return json.dumps({"what": "samples", **vars(self)}).encode() + b"\n"


def from_ticket(ticket: bytes) -> SearchTicket | SampleTicket:
    """Parses the bytes of a ticket."""
    line, _, rows = ticket.partition(b"\n")
    fields = json.loads(line)
    if fields["what"] == "samples":
        return SampleTicket(fields["build"], fields["rows"], fields["shards"])
    names, shards = fields["categories"], fields["shards"]
    query = LeafQuery(
        np.frombuffer(rows, "<f4").reshape(fields["queries"]),
        fields["k"],
        fields["space"],
        None if names is None else frozenset(names),
        None if shards is None else frozenset(shards),
    )
    return SearchTicket(fields["build"], query)


def to_hit(fields: Mapping[str, Any]) -> Hit:
    """A hit from its fields, as JSON has them."""
    return Hit(**{**fields, "products": tuple(fields["products"])})


def from_answer(answer: LeafAnswer) -> pa.Table:
    """Converts an answer to a table with a row for each hit; the rest is in the table's metadata."""
    rows = [(number, *vars(hit).values()) for number, hits in enumerate(answer.hits) for hit in hits]
    columns = zip(*rows, strict=True) if rows else [()] * len(_HITS)
    table = pa.table([pa.array(column, kind.type) for column, kind in zip(columns, _HITS, strict=True)], _HITS)
    summary = {"queries": len(answer.hits), "searched": answer.searched, "shards": list(answer.shards)}
    return table.replace_schema_metadata({"answer": json.dumps(summary)})


def to_answer(table: pa.Table) -> LeafAnswer:
    """Converts a table of `from_answer` back."""
    summary = json.loads(table.schema.metadata[b"answer"])
    hits: list[list[Hit]] = [[] for _ in range(summary["queries"])]
    for query, score, image_id, category, uri, products, region in zip(
        *map(pa.ChunkedArray.to_pylist, table.columns), strict=True
    ):
        hits[query].append(Hit(score, image_id, category, uri, tuple(products), region))
    return LeafAnswer(summary["shards"], summary["searched"], hits)


def from_samples(samples: Mapping[str, np.ndarray]) -> pa.Table:
    """Converts vectors by category, float32 (n, dim), to a table with a row for each."""
    dim = next((rows.shape[1] for rows in samples.values()), 1)
    rows = np.concatenate([*samples.values(), np.zeros((0, dim), np.float32)])
    names = [name for name, part in samples.items() for _ in range(len(part))]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), dim)
    return pa.table({"category": pa.array(names, pa.string()), "vector": vectors})


def to_samples(table: pa.Table) -> dict[str, np.ndarray]:
    """Converts a table of `from_samples` back."""
    column = table.column("vector").combine_chunks()
    rows = column.flatten().to_numpy().reshape(len(column), -1) if len(column) else np.zeros((0, 1), np.float32)
    names = np.array(table.column("category").to_pylist())
    return {str(name): rows[names == name] for name in np.unique(names)}
