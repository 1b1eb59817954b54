"""Estimate of a run: a root's tables and a source's listing in; photos, seconds, bytes and memory by stage out.

It reads listings and id columns only. Rates are those of earlier runs on this root, so of its machines and photos; a
stage that never ran here has no rate.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from likeness.catalog.sources import check_source, read_listing
from likeness.core import formatting
from likeness.core.errors import DataError
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.kinds import candidates
from likeness.models.backbones import Space
from likeness.ops.backfill_coverage import CoverageCell, Scope, space_coverage
from likeness.storage.run_history import rates
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS, SOURCES


@dataclass(frozen=True)
class StageEstimate:
    """Work of one stage: items, seconds (None if this root has no rate for it) and bytes.

    `stored` is the bytes written, at most, before HDFS replicates them; `memory` is the bytes that the shards take on
    the machines that search; `basis` is the run that the rate comes from.
    """

    stage: str
    count: int
    unit: str
    seconds: float | None
    stored: int
    memory: int = 0
    basis: str = ""


def estimate(settings: Settings, space: Space) -> list[StageEstimate]:
    """Estimates each stage of a nightly run with these settings; without a source, for the tables alone.

    Raises:
        UsageError: the source does not exist.
    """
    tables = TableReader(settings)
    measured = rates(tables, space.id)
    new, new_bytes, categories = _unread(tables, settings)
    images = tables.read(IMAGES, ("image_id",))["image_id"]
    extracted = tables.read(FEATURES, ("image_id",), f"space = '{space.id}'")["image_id"]
    failed = tables.read(FAILURES, ("what",), f"stage = 'extract' AND space = '{space.id}'")["what"]
    finished = pc.or_(pc.is_in(images, extracted), pc.is_in(images, failed))
    to_extract = new + len(images.filter(pc.invert(finished)))
    listings = tables.read(LISTINGS, ("category", "image_id", "active"))
    categories += _by_category(listings.filter(listings["active"]), "image_id")
    vectors = categories.total()
    budget = settings.index.memory_gb * 1e9 / max(1, vectors)
    memory, stored = 0, 0
    for count in categories.values():
        kind = candidates(settings.index.kind, count, space.dim, budget * count)[0]
        memory += count * kind.bytes_per_vector(space.dim)
        refined = 0 if kind.name.startswith("flat") else 2 * space.dim
        stored += count * (kind.bytes_per_vector(space.dim) + refined)
    to_index = to_extract if _is_incremental(settings, space, vectors, to_extract) else vectors
    return [
        _stage_estimate(measured, "ingest", new, "photos", new_bytes),
        _stage_estimate(measured, "extract", to_extract, "photos", 4 * space.dim * to_extract),
        _stage_estimate(measured, "load", to_extract, "vectors", 4 * space.dim * to_extract),
        _stage_estimate(measured, "index", to_index, "vectors", stored, memory),
    ]


def _is_incremental(settings: Settings, space: Space, vectors: int, new: int) -> bool:
    """Whether the index stage adds deltas to the build in service, rather than rebuild every shard."""
    try:
        current = Builds.open(settings).current(space.id)
    except DataError:
        return False
    index = settings.index
    rebuild = vectors < index.whole_below or new > index.max_changed * vectors
    return current is not None and current.space == space.id and not rebuild


def backfill(settings: Settings, space: Space, scope: Scope) -> tuple[StageEstimate, Sequence[CoverageCell]]:
    """Estimates a backfill of a space: the extraction in all, and the counts by ingest date.

    Raises:
        UsageError: the scope is not valid, or has no photo.
    """
    tables = TableReader(settings)
    cells = space_coverage(tables, space.id, scope)
    to_extract = sum(cell.missing for cell in cells)
    measured = rates(tables, space.id)
    return _stage_estimate(measured, "extract", to_extract, "photos", 4 * space.dim * to_extract), cells


def duration(seconds: float | None) -> str:
    """Seconds for people, such as `3 min 05 s`; None is a stage without a rate."""
    return "never measured here" if seconds is None else formatting.duration(seconds)


def _stage_estimate(
    measured: dict[str, tuple[float, str]], stage: str, count: int, unit: str, stored: int, memory: int = 0
) -> StageEstimate:
    rate, basis = measured.get(stage, (0.0, ""))
    seconds = round(count / rate, 1) if rate else None if count else 0.0
    return StageEstimate(stage, count, unit, seconds, stored, memory, basis)


def _unread(tables: TableReader, settings: Settings) -> tuple[int, int, Counter[str]]:
    """Files of the source that no run has read: their number, their bytes, and their number by category."""
    if not settings.source.uri:
        return 0, 0, Counter()
    check_source(settings.source)
    items = read_listing(settings.source).items.select(["uri", "length", "mtime", "category"])
    read = tables.read(SOURCES, ("uri", "length", "mtime"))
    unread = items.join(read, ["uri", "length", "mtime"], join_type="left anti")
    files = unread.group_by(["uri"]).aggregate([("length", "max")])
    return files.num_rows, int(pc.sum(files["length_max"]).as_py() or 0), _by_category(unread, "uri")


def _by_category(rows: pa.Table, key: str) -> Counter[str]:
    """The number of different values of a column by category."""
    counts = rows.group_by("category").aggregate([(key, "count_distinct")])
    return Counter(dict(zip(counts["category"].to_pylist(), counts[f"{key}_count_distinct"].to_pylist(), strict=True)))
