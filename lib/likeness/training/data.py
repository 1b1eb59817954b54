"""Training data: tables in; photos with their annotations and vectors, split for training and evaluation, out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from likeness.catalog import samples
from likeness.catalog.annotations import Annotation
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Train
from likeness.evaluation.evaluation_sets import groups, uniform
from likeness.storage.data_files import whole_photos
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES


@dataclass(frozen=True)
class TrainingData:
    """`train_count` photos to train on and, after them, the photos to evaluate on.

    `fold_positions`, float64 (photos,) between 0 and 1, are equal for photos of one product: a fold is a range of them.
    `vectors`, float32 (photos, dim), are empty where they are neither inputs nor targets.
    """

    image_ids: Sequence[str]
    annotations: Sequence[Annotation]
    train_count: int
    fold_positions: np.ndarray
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    @property
    def train_annotations(self) -> Sequence[Annotation]:
        """Annotations of the photos to train on."""
        return self.annotations[: self.train_count]

    @property
    def train_rows(self) -> np.ndarray:
        """Rows of the photos to train on, int64 (n,)."""
        return np.arange(self.train_count)

    @property
    def evaluation_rows(self) -> np.ndarray:
        """Rows of the photos to evaluate on, int64 (n,)."""
        return np.arange(self.train_count, len(self.annotations))

    def filter(self, keep: Sequence[bool]) -> "TrainingData":
        """Keeps the photos for which `keep` is true.

        Raises:
            DataError: no photo is left to train on, or none to evaluate on.
        """
        rows = np.flatnonzero(keep)
        train_count = int((rows < self.train_count).sum())
        if not train_count or train_count == len(rows):
            raise DataError(
                f"{train_count} photos to train on and {len(rows) - train_count} to evaluate on: both are needed. "
                "Ingest and extract more, or freeze another evaluation set (`likeness models freeze`)"
            )
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in rows.tolist()],
            annotations=[self.annotations[row] for row in rows.tolist()],
            train_count=train_count,
            fold_positions=self.fold_positions[rows],
            vectors=self.vectors[rows] if len(self.vectors) else self.vectors,
        )


def load_training_data(
    tables: TableReader,
    settings: Train,
    snapshots: Mapping[str, int],
    space: str,
    train: Mapping[str, Annotation],
    evaluation: Mapping[str, Annotation],
) -> TrainingData:
    """Loads those of the annotated photos that the tables have, with their vectors of a space.

    Args:
        tables: of the root.
        settings: the most photos to train on, and the seed of the folds.
        snapshots: of the tables, by name.
        space: id of the space whose vectors are read; empty for none.
        train: photos to train on, by image_id.
        evaluation: photos to evaluate on, by image_id.

    Raises:
        UsageError: the tables have no photo to train on.
        DataError: a vector has NaN or infinity.
    """
    table, where = (FEATURES, f"space = '{space}'") if space else (IMAGES, "")
    files = [uri for uri, _ in tables.parts(table, where, snapshots.get(table.name))]
    existing = {key for uri in files for keys in whole_photos(uri) for key in keys}
    train_keys = sorted(existing & train.keys())[: settings.photos]
    keys = [*train_keys, *sorted(existing & evaluation.keys())]
    if not train_keys:
        if not space:
            raise UsageError("no listed photo outside the evaluation set is ingested; ingest more photos first")
        name = space.partition("@")[0]
        raise UsageError(
            f"no listed photo has a vector of {space}; run ./spark-submit.sh backfill --space {name} first"
        )
    vectors = samples.vector_matrix(files, space, keys) if space else np.empty((0, 0), np.float32)
    if not np.isfinite(vectors).all():
        bad = keys[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
        raise DataError(
            f"the vector of {bad} in {space} has NaN or infinity; `likeness forget` the photo, or extract it again"
        )
    photos = {**train, **evaluation}
    photos = {key: photos[key] for key in keys}
    group_of = groups(photos)
    fold_positions = np.array([uniform(group_of[key], settings.seed) for key in keys])
    return TrainingData(keys, [photos[key] for key in keys], len(train_keys), fold_positions, vectors)
