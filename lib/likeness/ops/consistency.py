"""Whether the keyed store says what the tables say: both in, every row that differs out.

Vectors are compared by digests of eight bytes, so that a hundred million need two gigabytes.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from likeness.catalog.products import COLUMNS, fold
from likeness.storage import KeyedStore, Product
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

_ROWS = 4096


@dataclass(frozen=True)
class Inconsistency:
    """A row that is `missing` in the store, `stale` (it says something else) or `surplus`."""

    kind: str
    table: str
    key: str


def vectors(warehouse: TableReader, store: KeyedStore, space: str) -> Iterator[Inconsistency]:
    """Compares every vector of a space."""
    here = _digests(warehouse, space)
    seen = np.zeros(len(here), bool)
    for rows in _pieces(store.scan_vectors(space)):
        keys = np.array([_key(image_id) for image_id, _ in rows], np.uint64)
        digests = np.array([_digest(vector.tobytes()) for _, vector in rows], np.uint64)
        if len(here):
            place = np.searchsorted(here["key"], keys).clip(0, len(here) - 1)
            known = here["key"][place] == keys
            same = here["digest"][place] == digests
            seen[place[known]] = True
        else:
            known = same = np.zeros(len(rows), bool)
        for number in np.flatnonzero(~(known & same)):
            yield Inconsistency("stale" if known[number] else "surplus", FEATURES.name, rows[number][0])
    missing = set(here["key"][~seen].tolist())
    if missing:
        for batch in warehouse.batches(FEATURES, ("image_id",), f"space = '{space}'"):
            for image_id in batch.column(0).to_pylist():
                if _key(image_id) in missing:
                    yield Inconsistency("missing", FEATURES.name, image_id)


def products(warehouse: TableReader, store: KeyedStore) -> Iterator[Inconsistency]:
    """Compares the facts of every product."""
    listings = warehouse.read(LISTINGS, COLUMNS).sort_by("product_id")
    rows = (row for batch in listings.to_batches(max_chunksize=_ROWS) for row in batch.to_pylist())
    here = {product.product_id: _facts(product) for product in fold(rows) if product.image_ids}
    for product in store.scan_products():
        expected = here.pop(product.product_id, None)
        if expected is None:
            yield Inconsistency("surplus", LISTINGS.name, product.product_id)
        elif expected != _facts(product):
            yield Inconsistency("stale", LISTINGS.name, product.product_id)
    for product_id in here:
        yield Inconsistency("missing", LISTINGS.name, product_id)


def _digests(warehouse: TableReader, space: str) -> np.ndarray:
    """(key, digest) of every vector of the features table, sorted by key."""
    kind = np.dtype([("key", np.uint64), ("digest", np.uint64)])
    parts = [np.empty(0, kind)]
    for batch in warehouse.batches(FEATURES, ("image_id", "vector"), f"space = '{space}'"):
        part = np.empty(batch.num_rows, kind)
        part["key"] = [_key(image_id) for image_id in batch.column("image_id").to_pylist()]
        part["digest"] = [_digest(cell) for cell in _cells(batch.column("vector"))]
        parts.append(part)
    found = np.concatenate(parts)
    found.sort(order="key")
    return found


def _cells(lists: pa.ListArray) -> Iterator[bytes]:
    values = np.asarray(lists.flatten(), "<f4")
    stops = np.cumsum(lists.value_lengths().to_numpy())
    for start, stop in itertools.pairwise([0, *stops.tolist()]):
        yield values[start:stop].tobytes()


def _pieces(rows: Iterable[tuple[str, np.ndarray]]) -> Iterator[list[tuple[str, np.ndarray]]]:
    rows = iter(rows)
    while piece := list(itertools.islice(rows, _ROWS)):
        yield piece


def _key(image_id: str) -> int:
    return int(image_id[:16], 16)


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _facts(product: Product) -> bytes:
    told = (product.category, sorted(product.attributes.items()), list(product.image_ids))
    return hashlib.blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16).digest()
