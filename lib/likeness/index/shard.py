"""A loaded shard, and the merge of the hits of many: queries in, nearest images out.   [faiss]"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.errors import DataError
from likeness.index.ids import faiss_id, read_id_map
from likeness.index.kinds import kind
from likeness.index.manifest import Shard
from likeness.index.searcher import Searcher
from likeness.storage.items import WHOLE_PHOTO


@dataclass(frozen=True)
class Hit:
    """One near image: the region that matched, and the products that show the image in one of the shard's categories.

    `region` is empty where the whole photo matched.
    """

    score: float
    image_id: str
    category: str
    uri: str
    products: tuple[str, ...]
    region: str = WHOLE_PHOTO


@dataclass(frozen=True)
class Near:
    """The nearest rows of a shard, out of `searched` rows: scores float32 and rows int64, each (q, k).

    The nearest come first, an image at most once; -1 is the row where fewer were found.
    """

    searched: int
    scores: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, slots=True)
class _Row:
    """Names of a row; each listing is a category, a URI and sorted products."""

    image_id: str
    region: str
    listings: Sequence[tuple[str, str, tuple[str, ...]]]


class LoadedShard:
    """One shard, memory-mapped. `images`, int64 (rows,), numbers the image of each row, the same in all shards.

    The sorted ids in `tombstones` are never found. The names of up to `kept` rows are kept converted.
    """

    def __init__(
        self, record: Shard, folder: Path, metric: str, tombstones: np.ndarray | None = None, kept: int = 0
    ) -> None:
        self.record, self._path = record, folder / record.index.name
        self._converted, self._kept = dict[int, _Row](), kept
        try:
            index = faiss.read_index(str(self._path), faiss.IO_FLAG_MMAP_IFC)
            ids = read_id_map(pa.memory_map(str(folder / record.ids.name)))
        except (RuntimeError, OSError, pa.ArrowException) as error:
            raise DataError(
                f"shard {record.number} in {folder} cannot be loaded: {error}", "see `likeness verify`"
            ) from None
        keys = ids["id"].to_numpy()
        self._image_ids, self._listings = ids["image_id"].combine_chunks(), ids["shown"].combine_chunks()
        self.searcher = Searcher(index, kind(record.kind), record.index_params, metric)
        deleted = np.isin(keys, tombstones, assume_unique=True) if tombstones is not None else np.zeros(len(keys), bool)
        if index.ntotal != len(keys) or len(keys) != record.vectors or deleted.sum() != record.tombstoned:
            raise DataError(
                f"shard {record.number} in {folder}: {index.ntotal} vectors, {len(keys)} ids, {deleted.sum()} "
                f"tombstoned, the manifest says {record.vectors} and {record.tombstoned}",
                "see `likeness verify`",
            )
        self._live = ~deleted if deleted.any() else None
        self._rows_of = self._by_category() if len(record.categories) > 1 else {}
        self.images, self._regions, self._order = keys, ids["region"].combine_chunks(), None
        if record.regions:
            self.images = np.array([faiss_id(name) for name in self._image_ids.to_pylist()], np.int64)
            self._order = np.argsort(self.images, kind="stable")

    def warm(self) -> None:
        """Reads the whole index file, so that first searches do not wait for the disk page by page."""
        block = bytearray(1 << 22)
        with self._path.open("rb", buffering=0) as file:
            while file.readinto(block):
                continue

    def find(self, queries: np.ndarray, k: int, categories: Collection[str] | None = None) -> Near:
        """Finds the k nearest images of each query; fewer if the index finds fewer.

        Args:
            queries: prepared, float32 (q, dim).
            k: images of a query.
            categories: those to search; None for all.
        """
        own = self.record.categories.keys()
        chosen = own if categories is None else own & set(categories)
        allowed = self._live if len(chosen) == len(own) else self._rows_in(chosen)
        searched = self.record.live if allowed is None else int(np.count_nonzero(allowed))
        scores, rows = self.searcher.nearest(queries, k, allowed)
        if self.record.regions:  # several rows may be of one image: search for more, until k images are found
            fetched = k
            while fetched < searched and self._short(rows, k):
                fetched = min(searched, 2 * fetched)
                scores, rows = self.searcher.nearest(queries, fetched, allowed)
            scores, rows = self._best_rows(scores, rows, k)
        return Near(searched, scores, rows)

    def hits(self, scores: np.ndarray, rows: np.ndarray, categories: Collection[str] | None = None) -> list[Hit]:
        """Converts rows and their scores to hits, with the products of the categories, or of all."""
        hits = []
        for score, row in zip(scores.tolist(), self._convert(rows), strict=True):
            chosen = [one for one in row.listings if categories is None or one[0] in categories]
            category, uri, products = chosen[0]
            if len(chosen) > 1:
                products = tuple(sorted({product for _, _, names in chosen for product in names}))
            hits.append(Hit(score, row.image_id, category, uri, products, row.region))
        return hits

    def _convert(self, rows: np.ndarray) -> list["_Row"]:
        """The names of some rows; those converted before are kept, as many as are to be."""
        kept, numbers = self._converted, rows.tolist()
        names = [kept.get(row) for row in numbers]
        missing = [position for position, name in enumerate(names) if name is None]
        if missing:
            columns = (column.take(rows[missing]) for column in (self._image_ids, self._regions, self._listings))
            new = dict[int, _Row]()
            for position, image_id, region, listed in zip(
                missing, *(each.to_pylist() for each in columns), strict=True
            ):
                listings = [(one["category"], one["uri"], tuple(sorted(set(one["products"])))) for one in listed]
                names[position] = new[numbers[position]] = _Row(image_id, region, listings)
            if len(kept) + len(new) > self._kept:
                self._converted = kept = {}
            if len(new) <= self._kept:
                kept.update(new)
        return [name for name in names if name]

    def lookup(self, image_id: str) -> Hit | None:
        """Looks up a live image by its id: a hit with a score of 0; None if the shard does not hold it."""
        if not re.fullmatch("[0-9a-f]{64}", image_id):
            return None
        number = faiss_id(image_id)
        first, last = (int(np.searchsorted(self.images, number, side, self._order)) for side in ("left", "right"))
        rows = np.arange(first, last) if self._order is None else self._order[first:last]
        for row in rows:
            if self._image_ids[row].as_py() == image_id and (self._live is None or self._live[row]):
                return self.hits(np.zeros(1), np.array([row]))[0]
        return None

    def sample_hits(self, count: int) -> list[Hit]:
        """The first live images, with a score of 0; ids are hashes, so the sample is random."""
        rows = np.arange(len(self.images)) if self._live is None else np.flatnonzero(self._live)
        if self.record.regions:
            rows = rows[np.sort(np.unique(self.images[rows], return_index=True)[1])]
        return self.hits(np.zeros(min(count, len(rows))), rows[:count])

    def sample_vectors(self, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
        """The first so many live rows of some categories, float32 (n, dim); ids are hashes, so they are random."""
        return {
            category: self.searcher.vectors(np.flatnonzero(self._rows_in({category}))[:count])
            for category, count in counts.items()
        }

    def _short(self, rows: np.ndarray, k: int) -> bool:
        """Whether some query has rows of fewer than k images, and the index may have more rows."""
        return any((nearest >= 0).all() and len(np.unique(self.images[nearest])) < k for nearest in rows)

    def _best_rows(self, scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Keeps the best row of each image, for k images a query: scores and rows, each (q, k)."""
        kept_scores, kept = np.full((len(rows), k), -np.inf, np.float32), np.full((len(rows), k), -1, np.int64)
        for query, nearest in enumerate(rows):
            valid = np.flatnonzero(nearest >= 0)
            first = valid[np.sort(np.unique(self.images[nearest[valid]], return_index=True)[1])][:k]
            kept_scores[query, : len(first)], kept[query, : len(first)] = scores[query, first], nearest[first]
        return kept_scores, kept

    def _rows_in(self, categories: Collection[str]) -> np.ndarray:
        """Live rows of some categories, bool (rows,)."""
        if not self._rows_of:
            live = np.ones(self.record.vectors, bool) if self._live is None else self._live
            return live if categories else np.zeros(self.record.vectors, bool)
        allowed = np.zeros(self.record.vectors, bool)
        for category in categories:
            allowed[self._rows_of[category]] = True
        return allowed

    def _by_category(self) -> dict[str, np.ndarray]:
        """Live rows by category, of a shard that has several."""
        rows = np.repeat(np.arange(len(self._listings)), pc.list_value_length(self._listings).to_numpy())
        names = pc.struct_field(self._listings.flatten(), "category").dictionary_encode()
        codes = names.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        order = order if self._live is None else order[self._live[rows[order]]]
        bounds = np.searchsorted(codes[order], np.arange(len(names.dictionary) + 1))
        parts = np.split(rows[order], bounds[1:-1])
        return dict(zip(names.dictionary.to_pylist(), parts, strict=True))


def merge(hit_lists: Iterable[Sequence[Hit]], k: int) -> list[Hit]:
    """The k nearest images of several lists of hits; equal scores in the order of image_id, each image once.

    An image keeps the score and region of its best hit, of equal ones the first category's, and the products of all.
    """
    best: dict[str, Hit] = {}
    for hit in sorted(
        (hit for hits in hit_lists for hit in hits),
        key=lambda hit: (-hit.score, hit.image_id, hit.category, hit.region),
    ):
        before = best.get(hit.image_id)
        if before is None:
            best[hit.image_id] = hit
        else:
            best[hit.image_id] = replace(before, products=tuple(sorted({*before.products, *hit.products})))
    return list(best.values())[:k]
