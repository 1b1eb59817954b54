"""Consistency of the keyed store with the tables: both in, every row that differs out.

Vectors are compared by 8-byte digests, so a hundred million take two gigabytes of memory.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from likeness.catalog.products import COLUMNS, fold
from likeness.storage import KeyedStore, Product
from likeness.storage.items import Item
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

_ROWS = 4096
_ITEM = ("image_id", "region")


@dataclass(frozen=True)
class Inconsistency:
    """A row of a table that the keyed store lacks (`missing`) or has otherwise (`stale`), or has alone (`surplus`)."""

    kind: str
    table: str
    key: str


def compare_vectors(tables: TableReader, store: KeyedStore, space: str) -> Iterator[Inconsistency]:
    """Compares every vector of a space, and yields the key of each item that differs."""
    expected = _digests(tables, space)
    seen = np.zeros(len(expected), bool)
    for rows in _chunks(store.scan_vectors(space)):
        keys = np.array([_key(item) for item, _ in rows], np.uint64)
        digests = np.array([_digest(vector.tobytes()) for _, vector in rows], np.uint64)
        if len(expected):
            place = np.searchsorted(expected["key"], keys).clip(0, len(expected) - 1)
            in_table = expected["key"][place] == keys
            same = expected["digest"][place] == digests
            seen[place[in_table]] = True
        else:
            in_table = same = np.zeros(len(rows), bool)
        for number in np.flatnonzero(~(in_table & same)):
            yield Inconsistency("stale" if in_table[number] else "surplus", FEATURES.name, rows[number][0].key)
    missing = set(expected["key"][~seen].tolist())
    if missing:
        for batch in tables.batches(FEATURES, _ITEM, f"space = '{space}'"):
            for item in _items(batch):
                if _key(item) in missing:
                    yield Inconsistency("missing", FEATURES.name, item.key)


def compare_products(tables: TableReader, store: KeyedStore) -> Iterator[Inconsistency]:
    """Compares category, attributes and images of every product, and yields each product_id that differs."""
    listings = tables.read(LISTINGS, COLUMNS).sort_by("product_id")
    batches = listings.to_batches(max_chunksize=_ROWS)
    digests = {product.product_id: _product_digest(product) for product in fold(batches) if product.image_ids}
    for product in store.scan_products():
        expected = digests.pop(product.product_id, None)
        if expected is None:
            yield Inconsistency("surplus", LISTINGS.name, product.product_id)
        elif expected != _product_digest(product):
            yield Inconsistency("stale", LISTINGS.name, product.product_id)
    for product_id in digests:
        yield Inconsistency("missing", LISTINGS.name, product_id)


def _digests(tables: TableReader, space: str) -> np.ndarray:
    """(key, digest) of every vector of the features table, sorted by key."""
    kind = np.dtype([("key", np.uint64), ("digest", np.uint64)])
    parts = [np.empty(0, kind)]
    for batch in tables.batches(FEATURES, (*_ITEM, "vector"), f"space = '{space}'"):
        part = np.empty(batch.num_rows, kind)
        part["key"] = [_key(item) for item in _items(batch)]
        part["digest"] = [_digest(data) for data in _vector_bytes(batch.column("vector"))]
        parts.append(part)
    rows = np.concatenate(parts)
    rows.sort(order="key")
    return rows


def _items(batch: pa.RecordBatch) -> Iterator[Item]:
    return map(Item, *(batch.column(name).to_pylist() for name in _ITEM))


def _vector_bytes(lists: pa.ListArray) -> Iterator[bytes]:
    """Each vector as little-endian float32 bytes, as the keyed store has it."""
    values = np.asarray(lists.flatten(), "<f4")
    stops = np.cumsum(lists.value_lengths().to_numpy())
    for start, stop in itertools.pairwise([0, *stops.tolist()]):
        yield values[start:stop].tobytes()


def _chunks(rows: Iterable[tuple[Item, np.ndarray]]) -> Iterator[list[tuple[Item, np.ndarray]]]:
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _ROWS)):
        yield chunk


def _key(item: Item) -> int:
    """64 bits that stand for an item: the first of the image_id of a whole photo, a digest of the key of a region."""
    return _digest(item.key.encode()) if item.region else int(item.image_id[:16], 16)


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _product_digest(product: Product) -> bytes:
    fields = (product.category, sorted(product.attributes.items()), list(product.image_ids))
    return hashlib.blake2b(repr(fields).encode("utf-8", "surrogatepass"), digest_size=16).digest()
