"""A loaded shard, and the merge of many: queries in, nearest images out.   [faiss]"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.errors import DataError
from likeness.index.ids import faiss_id
from likeness.index.kinds import kind
from likeness.index.manifest import Shard
from likeness.index.searcher import Searcher


@dataclass(frozen=True)
class Hit:
    """One near image, with the products that show it in the category of the shard that found it."""

    score: float
    image_id: str
    category: str
    uri: str
    products: tuple[str, ...]


@dataclass(frozen=True)
class Near:
    """What a shard found, nearest first, out of `searched` images: scores float32 and rows int64, each (q, k).

    -1 is the row where fewer were found.
    """

    searched: int
    scores: np.ndarray
    rows: np.ndarray


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

    def find(self, queries: np.ndarray, k: int, categories: Collection[str] | None = None) -> Near:
        """The k nearest of each query; fewer if the index finds fewer.

        Args:
            queries: prepared, float32 (q, dim).
            k: how many.
            categories: which may be found; None for all.
        """
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
        row = int(np.searchsorted(self.ids, faiss_id(image_id)))
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
