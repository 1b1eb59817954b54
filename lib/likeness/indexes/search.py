"""A loaded shard, and the merge of many: queries in, nearest images out.   [faiss]"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from likeness.errors import DataError
from likeness.manifest import Shard


@dataclass(frozen=True)
class Hit:
    """One near image, with the products that show it in the category of the shard that found it."""

    score: float
    image_id: str
    category: str
    uri: str
    products: tuple[str, ...]


class LoadedShard:
    """One shard in memory, its id map memory-mapped."""

    def __init__(self, record: Shard, folder: Path, metric: str) -> None:
        self.record, self._metric = record, metric
        try:
            self._index: Any = faiss.read_index(str(folder / record.index.name))
            ids = pa.ipc.open_file(pa.memory_map(str(folder / record.ids.name))).read_all()
        except (RuntimeError, OSError, pa.ArrowException) as error:
            raise DataError(
                f"shard {record.number} in {folder} cannot be loaded: {error}; see `likeness verify`"
            ) from None
        self._keys = ids["id"].to_numpy()
        self._facts = [ids[name].combine_chunks() for name in ("image_id", "uri", "products")]
        if self._index.ntotal != len(self._keys) or len(self._keys) != record.vectors:
            raise DataError(
                f"shard {record.number} in {folder}: {self._index.ntotal} vectors, {len(self._keys)} ids, "
                f"the manifest says {record.vectors}; see `likeness verify`"
            )

    def search(self, queries: np.ndarray, k: int) -> list[list[Hit]]:
        """The k nearest of each prepared query, float32 (q, dim), nearest first; fewer if the index finds fewer."""
        k = min(k, len(self._keys))
        scores, ids = self._index.search(queries, k)
        if self._metric == "l2":
            scores = -np.sqrt(np.maximum(scores, 0))
        rows = np.searchsorted(self._keys, ids)
        return [
            [self._hit(int(row), float(score)) for row, score, key in zip(*found, strict=True) if key >= 0]
            for found in zip(rows, scores, ids, strict=True)
        ]

    def sample(self, rows: int) -> np.ndarray:
        """The first rows, float32 (n, dim); ids are hashes, so they are a random sample."""
        index = faiss.downcast_index(self._index.index)
        vectors: np.ndarray = index.reconstruct_n(0, min(rows, len(self._keys)))
        return vectors

    def _hit(self, row: int, score: float) -> Hit:
        image_id, uri, products = (column[row].as_py() for column in self._facts)
        return Hit(score, image_id, self.record.category, uri, tuple(products))


def merge(found: Iterable[Sequence[Hit]], k: int) -> list[Hit]:
    """The k nearest of several shards' hits; equal scores in the order of image_id, each image once.

    An image of several categories keeps the first category's name and the products of all.
    """
    best: dict[str, Hit] = {}
    for hit in sorted(
        (hit for hits in found for hit in hits), key=lambda hit: (-hit.score, hit.image_id, hit.category)
    ):
        before = best.get(hit.image_id)
        if before is None:
            best[hit.image_id] = hit
        else:
            products = tuple(sorted({*before.products, *hit.products}))
            best[hit.image_id] = Hit(before.score, hit.image_id, before.category, before.uri, products)
    return list(best.values())[:k]
