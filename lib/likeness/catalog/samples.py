"""Photos with what their listings say, and their vectors, read for an evaluation: tables in, matrices out.

An image_id is a hash, so the smallest ones are a random sample, and the same one in every space.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness.catalog.annotations import annotations
from likeness.core.errors import DataError
from likeness.storage.data_files import vectors, whole_photos
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

MOST = 20_000
_SPARE = 2
_ALL = "g"
"""Above every image_id."""


@dataclass(frozen=True)
class Labels:
    """Rows of a matrix of vectors: the categories and products of each photo."""

    categories: Sequence[frozenset[str]]
    products: Sequence[frozenset[str]]


@dataclass(frozen=True)
class Sample:
    """Photos that are shown and that some spaces hold; `files` by space.

    There are `of` such photos, or no more than that where only a part was looked at.
    """

    image_ids: Sequence[str]
    labels: Labels
    of: int
    files: Mapping[str, Sequence[str]]


def draw_sample(
    warehouse: TableReader,
    spaces: Sequence[str],
    most: int = MOST,
    files: int | None = None,
    snapshots: Mapping[str, int] | None = None,
) -> Sample:
    """The photos of active listings that each space holds, at most `most`, in the order of image_id.

    Args:
        warehouse: of the root.
        spaces: which must all hold a photo.
        most: photos.
        files: data files of a space that are looked into; None for all.
        snapshots: of the tables, by name; the current ones by default.
    """
    at = snapshots or {}
    parts = {one: warehouse.parts(FEATURES, f"space = '{one}'", at.get(FEATURES.name)) for one in spaces}
    chosen = {one: _some(found, files) for one, found in parts.items()}
    fewest = min(sum(rows for _, rows in found) for found in chosen.values())
    below = _bound(most, fewest)
    held = [{key for uri, _ in found for key in _below(uri, below)} for found in chosen.values()]
    shown = annotations(warehouse, at.get(LISTINGS.name), below)
    both = sorted(set.intersection(*held) & shown.keys())
    rows = min(sum(rows for _, rows in found) for found in parts.values())
    whole = below == _ALL and all(len(chosen[one]) == len(parts[one]) for one in spaces)
    keys = both[:most]
    return Sample(
        keys,
        Labels([shown[key].categories for key in keys], [shown[key].products for key in keys]),
        len(both) if whole else rows,
        {one: [uri for uri, _ in found] for one, found in chosen.items()},
    )


def vector_matrix(files: Iterable[str], space: str, image_ids: Sequence[str]) -> np.ndarray:
    """The vectors of some photos, float32 (n, dim), in their order; all of the files is read, little is kept.

    Raises:
        DataError: the files lack one.
    """
    place = {image_id: row for row, image_id in enumerate(image_ids)}
    found: np.ndarray | None = None
    seen = np.zeros(len(place), bool)
    for uri in files:
        for keys, rows in vectors(uri, space):
            wanted = np.fromiter((place.get(key, -1) for key in keys), np.int64, len(keys))
            mine = wanted >= 0
            if not mine.any():
                continue
            if found is None:
                found = np.empty((len(place), rows.shape[1]), np.float32)
            if not mine.all():
                wanted, rows = wanted[mine], rows[mine]
            found[wanted], seen[wanted] = rows, True
    if found is None or not seen.all():
        lacking = next((key for key, there in zip(image_ids, seen, strict=True) if not there), "any photo")
        raise DataError(f"the features table has no vector of {space} for {lacking}; run ./spark-submit.sh extract")
    return found


def _some(parts: Sequence[tuple[str, int]], files: int | None) -> list[tuple[str, int]]:
    """So many of the files, drawn at random; the same files give the same ones."""
    ordered = sorted(parts)
    return ordered if files is None or len(ordered) <= files else random.Random(0).sample(ordered, files)


def _bound(most: int, rows: int) -> str:
    """The image_id below which enough of so many rows lie; beyond all of them if that is no fewer."""
    return _ALL if rows <= _SPARE * most else f"{16**8 * _SPARE * most // rows:08x}"


def _below(uri: str, bound: str) -> list[str]:
    return [key for keys in whole_photos(uri) for key in keys if key < bound]
