"""What is learned from: tables in, photos with what their listings say and their vectors out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from likeness.catalog import samples
from likeness.catalog.annotations import Annotation
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Train
from likeness.evaluation.evaluation_sets import drawn, groups
from likeness.storage.table_reader import TableReader
from likeness.storage.table_reader import names as keys_of
from likeness.storage.tables import FEATURES, IMAGES


@dataclass(frozen=True)
class Data:
    """`learned` photos that are learned from and, after them, those that are measured on.

    `places`, float64 (photos,) between 0 and 1, are the same for photos of one product: a fold is a range of them.
    `vectors`, float32 (photos, dim), are there where they are what is learned from, or what is to be learned.
    """

    image_ids: Sequence[str]
    shown: Sequence[Annotation]
    learned: int
    places: np.ndarray
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @property
    def rows(self) -> np.ndarray:
        """Of the photos that are learned from."""
        return np.arange(self.learned)

    @property
    def asked(self) -> np.ndarray:
        """Of those that are measured on."""
        return np.arange(self.learned, len(self.shown))

    def kept(self, mine: Sequence[bool]) -> "Data":
        """Only some of the photos.

        Raises:
            DataError: nothing is left to learn from, or to measure on.
        """
        rows = np.flatnonzero(mine)
        learned = int((rows < self.learned).sum())
        if not learned or learned == len(rows):
            raise DataError(
                f"{learned} photos to learn from, {len(rows) - learned} to measure on: both are wanted. "
                "Ingest and extract more, or freeze another evaluation set (`likeness models freeze`)"
            )
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in rows.tolist()],
            shown=[self.shown[row] for row in rows.tolist()],
            learned=learned,
            places=self.places[rows],
            vectors=self.vectors[rows] if len(self.vectors) else self.vectors,
        )


def gathered(
    warehouse: TableReader,
    how: Train,
    snapshots: Mapping[str, int],
    space: str,
    free: Mapping[str, Annotation],
    asked: Mapping[str, Annotation],
) -> Data:
    """The photos that are there, with their vectors of a space; without vectors if it is empty.

    Args:
        warehouse: of the root.
        how: how many photos, at most, and the seed of their places.
        snapshots: of the tables, by name.
        space: the id of the space whose vectors are read; empty for none.
        free: photos that may be learned from.
        asked: photos to measure on.

    Raises:
        UsageError: no photo is there.
        DataError: a vector is not finite.
    """
    table, where = (FEATURES, f"space = '{space}'") if space else (IMAGES, "")
    files = [uri for uri, _ in warehouse.parts(table, where, snapshots.get(table.name))]
    there = {key for uri in files for keys in keys_of(uri) for key in keys}
    learned = sorted(there & free.keys())[: how.photos]
    keys = [*learned, *sorted(there & asked.keys())]
    if not learned:
        told = f"--space {space.partition('@')[0]}" if space else ""
        raise UsageError(f"no listed photo has what is learned from; run ./spark-submit.sh backfill {told} first")
    shown = {**free, **asked}
    vectors = samples.vector_matrix(files, space, keys) if space else np.empty((0, 0), np.float32)
    if not np.isfinite(vectors).all():
        bad = keys[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise DataError(f"the vector of {bad} in {space} is not finite; `likeness forget` it, or extract it anew")
    mine = {key: shown[key] for key in keys}
    named = groups(mine)
    return Data(
        keys,
        [mine[key] for key in keys],
        len(learned),
        np.array([drawn(named[key], how.seed) for key in keys]),
        vectors,
    )
