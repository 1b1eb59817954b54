"""Vectors and categories of a root as Arrow, NumPy or a torch Dataset, for analysis and training.   [torch]

from likeness.catalog.dataset import features

dataset = features("var", "efficientnet_lite0.pool")
dataset.vectors, dataset.categories
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from likeness.catalog.samples import draw_sample, vector_matrix
from likeness.core.errors import UsageError
from likeness.core.settings import Settings, load_settings
from likeness.models.spaces import space_of
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Features:
    """Photos of active listings: image_ids, vectors, float32 (n, dim), and the first category of each by name.

    `space` is the feature space with its hash; `snapshots` are those of the tables that were read.
    """

    space: str
    snapshots: dict[str, int]
    image_ids: Sequence[str]
    vectors: np.ndarray
    categories: Sequence[str]

    def arrow(self) -> pa.Table:
        """A table of image_id, category and vector, a list of float32 of fixed length."""
        flat = pa.array(self.vectors.ravel())
        lists = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        return pa.table({"image_id": self.image_ids, "category": self.categories, "vector": lists})

    def torch(self) -> "torch.utils.data.TensorDataset":
        """A dataset of pairs: vector, float32 (dim,), and class, int64, the number of its category by name."""
        import torch

        numbers = {name: number for number, name in enumerate(sorted(set(self.categories)))}
        classes = torch.tensor([numbers[name] for name in self.categories])
        return torch.utils.data.TensorDataset(torch.from_numpy(self.vectors), classes)


def features(root: str, space: str = "", snapshot: int | None = None, photos: int = 1_000_000) -> Features:
    """Reads the vectors of a feature space.

    Args:
        root: path or URI of the root.
        space: such as `efficientnet_lite0.pool`, with or without its hash; the configured one by default.
        snapshot: of the `features` table; the current one by default.
        photos: maximum number; those with the smallest image_ids, which are a random sample.

    Raises:
        UsageError: the space is unknown, or has no vector; or the snapshot does not exist.
    """
    return read_features(load_settings(None, {"root": root}), space, snapshot, photos)


def read_features(
    settings: Settings, space: str = "", snapshot: int | None = None, photos: int = 1_000_000
) -> Features:
    """Reads the vectors of a feature space as `features` does, from the root of the settings."""
    name, tables = space_of(settings, space).id, TableReader(settings)
    latest = {FEATURES.name: snapshot if snapshot is not None else tables.snapshot(FEATURES)}
    latest |= {LISTINGS.name: tables.snapshot(LISTINGS)}
    snapshots = {table: number for table, number in latest.items() if number is not None}
    if len(snapshots) < len(latest) or not tables.parts(FEATURES, f"space = '{name}'", snapshots[FEATURES.name]):
        raise UsageError(f"root {settings.root} has no vector of {name}", "run ./spark-submit.sh backfill first")
    sample = draw_sample(tables, [name], photos, snapshots=snapshots)
    categories = [min(names) for names in sample.labels.categories]
    vectors = vector_matrix(sample.files[name], name, sample.image_ids)
    return Features(name, snapshots, sample.image_ids, vectors, categories)
