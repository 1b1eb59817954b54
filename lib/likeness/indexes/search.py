"""A loaded shard, and the merge of many: queries in, nearest images out.   [faiss]"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from likeness.errors import DataError
from likeness.indexes.kinds import Kind, Knob, kind
from likeness.manifest import Shard

_faiss: Any = faiss  # its type stubs know few search parameters
_SCANNED = 1 << 22
"""Values of allowed vectors up to which a scan of them all is the fastest search."""
_RARE = 0.02
"""Share of allowed vectors below which an index finds too few of them."""


@dataclass(frozen=True)
class Hit:
    """One near image, with the products that show it in the category of the shard that found it."""

    score: float
    image_id: str
    category: str
    uri: str
    products: tuple[str, ...]


class Searcher:
    """An index as it is searched: queries in, scores and rows out. A row is a vector's place in the index."""

    def __init__(self, index: Any, kind: Kind, knob: Knob, metric: str) -> None:
        self._whole, self._kind, self._knob, self._metric = index, kind, knob, metric
        inner: Any = faiss.downcast_index(index.index)
        refined = isinstance(inner, faiss.IndexRefine)
        self._index = inner
        self._vectors: Any = faiss.downcast_index(inner.refine_index) if refined else inner

    @property
    def rows(self) -> int:
        """How many vectors the index holds."""
        return int(self._whole.ntotal)

    def nearest(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and rows int64, each (q, k), the nearest first; -1 is the row where fewer were found.

        Args:
            queries: prepared, float32 (q, dim).
            k: how many; never more than there are.
            allowed: bool (rows,), which rows may be found; None for all.
        """
        if allowed is None:
            return self._found(queries, min(k, self.rows), self._knob, None)
        count = int(np.count_nonzero(allowed))
        if not count:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        k, share = min(k, count), count / self.rows
        selector = _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if not self._kind.filters or share < _RARE or count * queries.shape[1] <= _SCANNED:
            return self._searched(self._vectors, queries, k, _faiss.SearchParameters(sel=selector))
        # an index meets as many rows as without the filter, and may keep only this share of them
        knob = {name: value if name == "refine" else int(value / share) for name, value in self._knob.items()}
        return self._found(queries, k, knob, selector)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The prepared vectors of rows, float32 (n, dim), as exactly as the index has them."""
        found: np.ndarray = self._vectors.reconstruct_batch(rows)
        return found

    def _found(self, queries: np.ndarray, k: int, knob: Knob, selector: Any) -> tuple[np.ndarray, np.ndarray]:
        if "refine" in knob:  # never more candidates than there are: some kinds give those that miss the best place
            knob = {**knob, "refine": min(knob["refine"], self.rows / k)}
        return self._searched(self._index, queries, k, self._kind.parameters(knob, k, selector))

    def _searched(self, index: Any, queries: np.ndarray, k: int, parameters: Any) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = index.search(queries, k, params=parameters)
        return (-np.sqrt(np.maximum(scores, 0)) if self._metric == "l2" else scores), rows


class LoadedShard:
    """One shard, memory-mapped."""

    def __init__(self, record: Shard, folder: Path, metric: str) -> None:
        self.record = record
        try:
            index = faiss.read_index(str(folder / record.index.name), faiss.IO_FLAG_MMAP_IFC)
            ids = pa.ipc.open_file(pa.memory_map(str(folder / record.ids.name))).read_all()
        except (RuntimeError, OSError, pa.ArrowException) as error:
            raise DataError(
                f"shard {record.number} in {folder} cannot be loaded: {error}; see `likeness verify`"
            ) from None
        keys = ids["id"].to_numpy()
        self._facts = [ids[name].combine_chunks() for name in ("image_id", "uri", "products")]
        self.searcher = Searcher(index, kind(record.kind), record.knob, metric)
        if index.ntotal != len(keys) or len(keys) != record.vectors:
            raise DataError(
                f"shard {record.number} in {folder}: {index.ntotal} vectors, {len(keys)} ids, "
                f"the manifest says {record.vectors}; see `likeness verify`"
            )

    def search(self, queries: np.ndarray, k: int) -> list[list[Hit]]:
        """The k nearest of each prepared query, float32 (q, dim), nearest first; fewer if the index finds fewer."""
        scores, rows = self.searcher.nearest(queries, k)
        return [
            [self._hit(int(row), float(score)) for score, row in zip(*found, strict=True) if row >= 0]
            for found in zip(scores, rows, strict=True)
        ]

    def sample(self, rows: int) -> np.ndarray:
        """The first rows, float32 (n, dim); ids are hashes, so they are a random sample."""
        return self.searcher.vectors(np.arange(min(rows, self.searcher.rows)))

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
