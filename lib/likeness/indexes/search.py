"""A loaded shard, and the merge of many: queries in, nearest images out.   [faiss]"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from likeness.errors import DataError
from likeness.indexes.kinds import Kind, Knob, kind
from likeness.manifest import Shard

_faiss: Any = faiss  # its type stubs know few search parameters
_SCANNED = 1 << 22
"""Values of allowed vectors up to which a scan of them all is the fastest search."""
_RARE = 0.02
"""Share of allowed vectors below which an index finds too few of them."""
_MOST, _SPARE = 0.9, 4
"""Share of allowed vectors from which finding a few more, and dropping some, is the fastest search."""


@dataclass(frozen=True)
class Hit:
    """One near image, with the products that show it in the category of the shard that found it."""

    score: float
    image_id: str
    category: str
    uri: str
    products: tuple[str, ...]


@dataclass(frozen=True)
class ShardAnswer:
    """What one shard found: for each query its hits, nearest first, out of `searched` images."""

    shard: int
    searched: int
    hits: Sequence[Sequence[Hit]]


@dataclass(frozen=True)
class Near:
    """What a shard found, nearest first, out of `searched` images: scores float32 and rows int64, each (q, k).

    -1 is the row where fewer were found.
    """

    searched: int
    scores: np.ndarray
    rows: np.ndarray


class Searcher:
    """An index as it is searched: queries in, scores and rows out. A row is a vector's place in the index."""

    def __init__(self, index: Any, kind: Kind, knob: Knob, metric: str) -> None:
        self._whole, self._kind, self._knob, self._metric = index, kind, knob, metric
        self._unfiltered: dict[
            int, Any
        ] = {}  # parameters by k, which take as long to make as the projection of a query
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
            return self._found_any(queries, min(k, self.rows))
        count = int(np.count_nonzero(allowed))
        if not count:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        k = min(k, count)
        if count >= _MOST * self.rows:
            return self._sieved(queries, k, allowed, count)
        return self._selected(queries, k, allowed, count)

    def _sieved(self, queries: np.ndarray, k: int, allowed: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds a few more than k, all kinds of rows, and drops those not allowed: as fast as without a filter."""
        wanted = min(self.rows, k + max(_SPARE, int(_SPARE * k * (1 - count / self.rows))))
        scores, rows = self._found_any(queries, wanted)
        good = (rows >= 0) & allowed[rows]
        order = np.argsort(~good, axis=1, kind="stable")[:, :k]
        scores, rows = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        short = good.sum(axis=1) < k
        if short.any():
            scores[short], rows[short] = self._selected(queries[short], k, allowed, count)
        return scores, rows

    def _selected(self, queries: np.ndarray, k: int, allowed: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Lets the index itself pass over rows that are not allowed, or scans those that are."""
        share = count / self.rows
        selector = _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if not self._kind.filters or share < _RARE or count * queries.shape[1] <= _SCANNED:
            return self._searched(self._vectors, queries, k, _faiss.SearchParameters(sel=selector))
        # an index meets as many rows as without the filter, and may keep only this share of them
        knob = {name: value if name == "refine" else int(value / share) for name, value in self._knob.items()}
        return self._searched(self._index, queries, k, self._parameters(k, knob, selector))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The prepared vectors of rows, float32 (n, dim), as exactly as the index has them."""
        found: np.ndarray = self._vectors.reconstruct_batch(rows)
        return found

    def _found_any(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if k not in self._unfiltered:
            self._unfiltered[k] = self._parameters(k, self._knob, None)
        return self._searched(self._index, queries, k, self._unfiltered[k])

    def _parameters(self, k: int, knob: Knob, selector: Any) -> Any:
        if "refine" in knob:  # never more candidates than there are: some kinds give those that miss the best place
            knob = {**knob, "refine": min(knob["refine"], self.rows / k)}
        return self._kind.parameters(knob, k, selector)

    def _searched(self, index: Any, queries: np.ndarray, k: int, parameters: Any) -> tuple[np.ndarray, np.ndarray]:
        threads = faiss.omp_get_max_threads()
        if len(queries) == 1:  # FAISS would spread its product with the axes over all cores, and wait for the last
            faiss.omp_set_num_threads(1)
        try:
            scores, rows = index.search(queries, k, params=parameters)
        finally:
            faiss.omp_set_num_threads(threads)
        return (-np.sqrt(np.maximum(scores, 0)) if self._metric == "l2" else scores), rows


class LoadedShard:
    """One shard, memory-mapped; `removed` ids, sorted, are not found any more. `ids` are its rows', int64 (rows,)."""

    def __init__(self, record: Shard, folder: Path, metric: str, removed: np.ndarray | None = None) -> None:
        self.record, self._path = record, folder / record.index.name
        try:
            index = faiss.read_index(str(self._path), faiss.IO_FLAG_MMAP_IFC)
            ids = pa.ipc.open_file(pa.memory_map(str(folder / record.ids.name))).read_all()
        except (RuntimeError, OSError, pa.ArrowException) as error:
            raise DataError(
                f"shard {record.number} in {folder} cannot be loaded: {error}; see `likeness verify`"
            ) from None
        self.ids = keys = ids["id"].to_numpy()
        self._names, self._shown = ids["image_id"].combine_chunks(), ids["shown"].combine_chunks()
        self.searcher = Searcher(index, kind(record.kind), record.knob, metric)
        dead = np.isin(keys, removed, assume_unique=True) if removed is not None else np.zeros(len(keys), bool)
        if index.ntotal != len(keys) or len(keys) != record.vectors or dead.sum() != record.removed:
            raise DataError(
                f"shard {record.number} in {folder}: {index.ntotal} vectors, {len(keys)} ids, {dead.sum()} removed, "
                f"the manifest says {record.vectors} and {record.removed}; see `likeness verify`"
            )
        self._living = ~dead if dead.any() else None
        self._rows_of = self._by_category() if len(record.categories) > 1 else {}

    def warm(self) -> None:
        """Reads the index through, so that its first searches do not wait for the disk page by page."""
        block = bytearray(1 << 22)
        with self._path.open("rb", buffering=0) as file:
            while file.readinto(block):
                continue

    def search(self, queries: np.ndarray, k: int, categories: Collection[str] | None = None) -> ShardAnswer:
        """The k nearest of each prepared query, float32 (q, dim), nearest first; fewer if the index finds fewer.

        Args:
            queries: prepared.
            k: how many.
            categories: which may be found; None for all.
        """
        near = self.find(queries, k, categories)
        found = ((scores, rows, rows >= 0) for scores, rows in zip(near.scores, near.rows, strict=True))
        hits = [self.hits(scores[good], rows[good], categories) for scores, rows, good in found]
        return ShardAnswer(self.record.number, near.searched, hits)

    def find(self, queries: np.ndarray, k: int, categories: Collection[str] | None = None) -> Near:
        """What `search` finds, as numbers."""
        asked = None if categories is None else self.record.categories.keys() & set(categories)
        allowed = self._living if asked is None or len(asked) == len(self.record.categories) else self._among(asked)
        searched = self.record.living if allowed is None else int(np.count_nonzero(allowed))
        return Near(searched, *self.searcher.nearest(queries, k, allowed))

    def hits(self, scores: np.ndarray, rows: np.ndarray, categories: Collection[str] | None = None) -> list[Hit]:
        """Rows with their scores, as people read them: shown in the categories, or in all."""
        names, places = self._names.take(rows).to_pylist(), self._shown.take(rows).to_pylist()
        found = []
        for score, name, shown in zip(scores.tolist(), names, places, strict=True):
            mine = [one for one in shown if categories is None or one["category"] in categories]
            products = sorted({product for one in mine for product in one["products"]})
            found.append(Hit(score, name, mine[0]["category"], mine[0]["uri"], tuple(products)))
        return found

    def shown(self, image_id: str) -> Hit | None:
        """A living image as it is shown, with a score of 0; None if it is not in the shard."""
        if not re.fullmatch("[0-9a-f]{64}", image_id):
            return None
        row = int(np.searchsorted(self.ids, int(image_id[:16], 16) >> 1))
        if row == len(self.ids) or self._names[row].as_py() != image_id:
            return None
        dead = self._living is not None and not self._living[row]
        return None if dead else self.hits(np.zeros(1), np.array([row]))[0]

    def some(self, count: int) -> list[Hit]:
        """The first living images, with a score of 0; ids are hashes, so they are random."""
        rows = np.arange(len(self.ids)) if self._living is None else np.flatnonzero(self._living)
        return self.hits(np.zeros(min(count, len(rows))), rows[:count])

    def sample(self, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
        """By category, the first rows up to a share of them, float32 (n, dim); ids are hashes, so they are random."""
        found = {}
        for category, images in self.record.categories.items():
            rows = np.flatnonzero(self._among({category}))
            found[category] = self.searcher.vectors(rows[: math.ceil(shares[category] * images)])
        return found

    def _among(self, categories: Collection[str]) -> np.ndarray:
        """Which rows live and are of one of the categories."""
        if not self._rows_of:
            living = np.ones(self.record.vectors, bool) if self._living is None else self._living
            return living if categories else np.zeros(self.record.vectors, bool)
        allowed = np.zeros(self.record.vectors, bool)
        for category in categories:
            allowed[self._rows_of[category]] = True
        return allowed

    def _by_category(self) -> dict[str, np.ndarray]:
        """Living rows by category, of a shard that has several."""
        rows = np.repeat(np.arange(len(self._shown)), pc.list_value_length(self._shown).to_numpy())
        names = pc.struct_field(self._shown.flatten(), "category").dictionary_encode()
        codes = names.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        order = order if self._living is None else order[self._living[rows[order]]]
        bounds = np.searchsorted(codes[order], np.arange(len(names.dictionary) + 1))
        parts = np.split(rows[order], bounds[1:-1])
        return dict(zip(names.dictionary.to_pylist(), parts, strict=True))


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
