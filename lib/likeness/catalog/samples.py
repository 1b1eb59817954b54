"""Random samples of photos with their labels and vectors, read from the tables.

An image_id is a hash, so the photos with the smallest image_ids are a random sample, and the same in every space.
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
_MARGIN = 2
"""Candidates for each photo of a sample: some have no active listing."""
_MAX_ID = "g"
"""Greater than every image_id."""


@dataclass(frozen=True)
class Labels:
    """Categories and products of photos, in the order of the rows of a matrix of vectors."""

    categories: Sequence[frozenset[str]]
    products: Sequence[frozenset[str]]


@dataclass(frozen=True)
class Sample:
    """Photos with an active listing that have a vector in each of some spaces, with the data `files` of each space.

    They are drawn from `of` photos; where only a part was read, `of` is an upper bound.
    """

    image_ids: Sequence[str]
    labels: Labels
    of: int
    files: Mapping[str, Sequence[str]]


def draw_sample(
    tables: TableReader,
    spaces: Sequence[str],
    most: int = MOST,
    files: int | None = None,
    snapshots: Mapping[str, int] | None = None,
) -> Sample:
    """Draws photos that have an active listing, and a vector in each space; sorted by image_id.

    Args:
        tables: the tables of a root.
        spaces: the feature spaces.
        most: maximum number of photos.
        files: maximum number of data files to read of a space; None for all.
        snapshots: snapshots by name of the table; the current ones by default.
    """
    versions = snapshots or {}
    parts = {space: tables.parts(FEATURES, f"space = '{space}'", versions.get(FEATURES.name)) for space in spaces}
    chosen = {space: _choose(group, files) for space, group in parts.items()}
    bound = _bound(most, min(_rows(group) for group in chosen.values()))
    extracted = [{key for uri, _ in group for key in _below(uri, bound)} for group in chosen.values()]
    labels = annotations(tables, versions.get(LISTINGS.name), bound)
    candidates = sorted(set.intersection(*extracted) & labels.keys())
    complete = bound == _MAX_ID and all(len(chosen[space]) == len(parts[space]) for space in spaces)
    keys = candidates[:most]
    return Sample(
        keys,
        Labels([labels[key].categories for key in keys], [labels[key].products for key in keys]),
        len(candidates) if complete else min(_rows(group) for group in parts.values()),
        {space: [uri for uri, _ in group] for space, group in chosen.items()},
    )


def vector_matrix(files: Iterable[str], space: str, image_ids: Sequence[str]) -> np.ndarray:
    """Reads the vectors of some photos, float32 (n, dim), in their order. It reads all files, a batch at a time.

    Raises:
        DataError: the files have no vector of a photo.
    """
    positions = {image_id: row for row, image_id in enumerate(image_ids)}
    matrix: np.ndarray | None = None
    filled = np.zeros(len(positions), bool)
    for uri in files:
        for keys, rows in vectors(uri, space):
            targets = np.fromiter((positions.get(key, -1) for key in keys), np.int64, len(keys))
            selected = targets >= 0
            if not selected.any():
                continue
            if matrix is None:
                matrix = np.empty((len(positions), rows.shape[1]), np.float32)
            if not selected.all():
                targets, rows = targets[selected], rows[selected]
            matrix[targets], filled[targets] = rows, True
    if matrix is None or not filled.all():
        missing = next((key for key, done in zip(image_ids, filled, strict=True) if not done), "any photo")
        raise DataError(f"the features table has no vector of {space} for {missing}; run ./spark-submit.sh extract")
    return matrix


def _rows(parts: Sequence[tuple[str, int]]) -> int:
    return sum(rows for _, rows in parts)


def _choose(parts: Sequence[tuple[str, int]], files: int | None) -> list[tuple[str, int]]:
    """Draws at most so many data files at random, with a fixed seed."""
    ordered = sorted(parts)
    return ordered if files is None or len(ordered) <= files else random.Random(0).sample(ordered, files)


def _bound(most: int, rows: int) -> str:
    """The image_id below which there are enough candidates among so many rows."""
    return _MAX_ID if rows <= _MARGIN * most else f"{16**8 * _MARGIN * most // rows:08x}"


def _below(uri: str, bound: str) -> list[str]:
    return [key for keys in whole_photos(uri) for key in keys if key < bound]
