"""The vectors of a root for whoever wants to study them: Arrow, numpy or a torch Dataset.   [torch]

from likeness.catalog.dataset import features
found = features("var", "efficientnet_lite0.pool")
found.vectors, found.categories
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from likeness.catalog.samples import draw_sample, vector_matrix
from likeness.core.errors import UsageError
from likeness.core.settings import load_settings
from likeness.models.model_registry import space_of
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Features:
    """Photos of active listings: image_ids, vectors float32 (n, dim), and of each its first category by name.

    `space` is the feature space with its hash, `snapshots` those of the tables.
    """

    space: str
    snapshots: dict[str, int]
    image_ids: Sequence[str]
    vectors: np.ndarray
    categories: Sequence[str]

    def arrow(self) -> pa.Table:
        """Columns image_id, category and vector, a list of float32 of one length."""
        flat = pa.array(self.vectors.ravel())
        lists = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        return pa.table({"image_id": self.image_ids, "category": self.categories, "vector": lists})

    def torch(self) -> "torch.utils.data.TensorDataset":
        """Pairs of a vector, float32 (dim,), and the number of its category in alphabetical order, int64."""
        import torch

        numbers = {name: number for number, name in enumerate(sorted(set(self.categories)))}
        classes = torch.tensor([numbers[name] for name in self.categories])
        return torch.utils.data.TensorDataset(torch.from_numpy(self.vectors), classes)


def features(root: str, space: str = "", snapshot: int | None = None, photos: int = 1_000_000) -> Features:
    """The vectors of one space.

    Args:
        root: folder that holds everything written.
        space: as `efficientnet_lite0.pool`, with or without its hash; the configured one by default.
        snapshot: of the `features` table; the current one by default.
        photos: at most; those with the smallest image_ids, which are a random sample.

    Raises:
        UsageError: there is no such space, snapshot or vector.
    """
    settings = load_settings(None, {"root": root})
    name, warehouse = space_of(settings, space).id, TableReader(settings)
    at = {FEATURES.name: snapshot if snapshot is not None else warehouse.snapshot(FEATURES)}
    at |= {LISTINGS.name: warehouse.snapshot(LISTINGS)}
    known = {table: number for table, number in at.items() if number is not None}
    if len(known) < len(at) or not warehouse.parts(FEATURES, f"space = '{name}'", known[FEATURES.name]):
        raise UsageError(f"root {root} has no vector of {name}; run ./spark-submit.sh backfill first")
    drawn = draw_sample(warehouse, [name], photos, snapshots=known)
    categories = [min(one) for one in drawn.labels.categories]
    return Features(name, known, drawn.image_ids, vector_matrix(drawn.files[name], name, drawn.image_ids), categories)
