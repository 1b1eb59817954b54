"""Comparison of feature spaces on the same photos: their names in; precision, overlap, time and memory out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from likeness.catalog.samples import Sample, draw_sample, vector_matrix
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Settings
from likeness.core.statistics import Figure
from likeness.evaluation import retrieval_metrics
from likeness.evaluation.retrieval_metrics import METRICS, MetricResult
from likeness.index.kinds import KINDS
from likeness.index.manifest import Manifest
from likeness.storage.run_history import rates
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES

QUERIES = 1000
_FILES = 16
"""Data files that a run's report reads at most, so that it takes seconds however many there are."""


@dataclass(frozen=True)
class SpaceFigures:
    """Figures of one space by metric.

    `seconds_per_photo` is of extraction, as run `run_id` measured it on this root (None if never measured);
    `bytes_per_vector` the memory at search, by index kind.
    """

    space: str
    dim: int
    metrics: Sequence[MetricResult]
    seconds_per_photo: float | None
    run_id: str
    bytes_per_vector: Mapping[str, int]


@dataclass(frozen=True)
class Comparison:
    """Spaces compared by `queries` of the same `photos`, drawn from at most `of`; overlap@k by cosine of two spaces."""

    spaces: Sequence[SpaceFigures]
    photos: int
    of: int
    queries: int
    overlap: Mapping[int, Figure]


def compare(settings: Settings, spaces: Sequence[str]) -> Comparison:
    """Measures one space, or two on the photos that both have vectors of.

    Raises:
        UsageError: no such space.
        DataError: too few photos or products to compare.
    """
    tables = TableReader(settings)
    spaces = list(dict.fromkeys(resolve_space(tables, space) for space in spaces))
    return _compare(tables, draw_sample(tables, spaces))


def measure_build(tables: TableReader, manifest: Manifest) -> Comparison:
    """Measures the space of a build at its snapshots; of a large space, only a few files of vectors.

    Raises:
        LikenessError: as `compare`, or the snapshots have expired.
    """
    photos = draw_sample(tables, [manifest.space], files=_FILES, snapshots=manifest.snapshots)
    return _compare(tables, photos)


def resolve_space(tables: TableReader, name: str) -> str:
    """Finds a space of the tables by its name, or by its name without the hash if only one has it.

    Raises:
        UsageError: there is none, or more than one.
    """
    spaces = sorted({part.space for part in tables.partitions(FEATURES)})
    matches = [space for space in spaces if name in (space, space.partition("@")[0])]
    if len(matches) == 1:
        return str(matches[0])
    problem = "name one with its hash" if matches else "no such vectors"
    raise UsageError(f"--space {name!r}: {problem}; there are: {', '.join(matches or spaces) or 'none'}")


def _compare(tables: TableReader, photos: Sample) -> Comparison:
    queries, count = retrieval_metrics.draw_queries(photos.labels, QUERIES), len(photos.image_ids)
    if not len(queries.rows):
        spaces = " and ".join(photos.files)
        raise DataError(f"{spaces}: {count} photos of active listings, of too few products to compare; extract more")
    figures, neighbours = [], []
    for space, files in photos.files.items():  # one after the other: their vectors need not be in memory together
        vectors = vector_matrix(files, space, photos.image_ids)
        results = [retrieval_metrics.measure(vectors, photos.labels, queries, metric) for metric in METRICS]
        neighbours.append(results[METRICS.index("cosine")][1])
        metrics, dim = [result for result, _ in results], vectors.shape[1]
        rate, run_id = rates(tables, space).get("extract", (0.0, ""))
        memory = {kind.name: kind.bytes_per_vector(dim) for kind in KINDS.values()}
        figures.append(SpaceFigures(space, dim, metrics, round(1 / rate, 5) if rate else None, run_id, memory))
    overlap = retrieval_metrics.overlap(neighbours[0], neighbours[1]) if len(neighbours) == 2 else {}
    return Comparison(figures, count, photos.of, len(queries.rows), overlap)
