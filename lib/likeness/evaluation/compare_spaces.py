"""Feature spaces side by side: their names in; agreement, overlap, time and memory on the same photos out."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from likeness.catalog.samples import Sample, draw_sample, vector_matrix
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Settings
from likeness.core.statistics import Figure
from likeness.evaluation import retrieval_metrics
from likeness.evaluation.retrieval_metrics import METRICS, MetricResult, QuerySet
from likeness.index.kinds import KINDS
from likeness.index.manifest import Manifest
from likeness.storage.run_history import rates
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES

QUERIES = 1000
_FILES = 16
"""Data files that a run's report looks into, so that it takes seconds however many there are."""


@dataclass(frozen=True)
class SpaceFigures:
    """One space: its figures by metric, seconds a photo in extraction (None if never measured here) and in which run,
    and the bytes that a vector takes of the memory at search, by index kind.
    """

    space: str
    dim: int
    metrics: Sequence[MetricResult]
    seconds_per_photo: float | None
    run_id: str
    bytes_per_vector: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """Spaces on the same `photos`, drawn from `of` at most, of which `queries` asked; overlap@k by cosine, of two."""

    spaces: Sequence[SpaceFigures]
    photos: int
    of: int
    queries: int
    overlap: Mapping[int, Figure]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def compare(settings: Settings, spaces: Sequence[str]) -> Comparison:
    """Measures one space, or two on the photos that both hold.

    Raises:
        UsageError: no such space.
        DataError: there is nobody to ask, or nobody to answer.
    """
    warehouse = TableReader(settings)
    spaces = list(dict.fromkeys(known(warehouse, space) for space in spaces))
    photos = draw_sample(warehouse, spaces)
    asked = _asked(photos, " and ".join(spaces))
    told, near = [], []
    for space in spaces:  # one after the other: their vectors need not be in memory together
        vectors = vector_matrix(photos.files[space], space, photos.image_ids)
        measured, found = _measured(vectors, photos, asked)
        near.append(found)
        rate, run_id = rates(warehouse, space).get("extract", (0.0, ""))
        dim = vectors.shape[1]
        memory = {kind.name: kind.bytes_per_vector(dim) for kind in KINDS.values()}
        told.append(SpaceFigures(space, dim, measured, round(1 / rate, 5) if rate else None, run_id, memory))
    overlap = retrieval_metrics.overlap(near[0], near[1]) if len(near) == 2 else {}
    return Comparison(told, len(photos.image_ids), photos.of, len(asked.rows), overlap)


def of_build(warehouse: TableReader, manifest: Manifest) -> Comparison:
    """As `compare`, of the space of a build, at its snapshots; of a large one, of a few files of vectors.

    Raises:
        LikenessError: as `compare`, or the snapshots are gone.
    """
    photos = draw_sample(warehouse, [manifest.space], files=_FILES, snapshots=manifest.snapshots)
    asked = _asked(photos, manifest.space)
    vectors = vector_matrix(photos.files[manifest.space], manifest.space, photos.image_ids)
    figures = SpaceFigures(manifest.space, manifest.dim, _measured(vectors, photos, asked)[0], None, "", {})
    return Comparison([figures], len(photos.image_ids), photos.of, len(asked.rows), {})


def known(warehouse: TableReader, name: str) -> str:
    """A space of the tables by its name, or without its hash where that is enough.

    Raises:
        UsageError: there is none, or more than one.
    """
    there = sorted({part.space for part in warehouse.partitions(FEATURES)})
    found = [space for space in there if name in (space, space.partition("@")[0])]
    if len(found) == 1:
        return str(found[0])
    wrong = "name one with its hash" if found else "no such vectors"
    raise UsageError(f"--space {name!r}: {wrong}; there are: {', '.join(found or there) or 'none'}")


def _asked(photos: Sample, where: str) -> QuerySet:
    asked = retrieval_metrics.draw_queries(photos.labels, QUERIES)
    if not len(asked.rows):
        count = len(photos.image_ids)
        raise DataError(f"{where}: {count} photos of active listings, of too few products to compare; extract more")
    return asked


def _measured(vectors: np.ndarray, photos: Sample, asked: QuerySet) -> tuple[list[MetricResult], list[np.ndarray]]:
    """Every metric, and the neighbours by cosine."""
    found = [retrieval_metrics.measure(vectors, photos.labels, asked, metric) for metric in METRICS]
    return [measured for measured, _ in found], found[METRICS.index("cosine")][1]
