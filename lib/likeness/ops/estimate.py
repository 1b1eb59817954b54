"""What a run would do: a root's tables and a source's listing in; photos, seconds, bytes and memory by stage out.

Nothing is read but listings and columns of names. Times are those of the root's own last runs, so they are of its
machines and its photos; a stage that never ran here has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """One stage: how many, the seconds that takes (None if never measured here), and what it leaves.

    `stored` is bytes written, at most, before HDFS copies them; `memory` is what the shards want of the machines that
    search; `basis` is the run that the rate was taken from.
    """

    stage: str
    count: int
    unit: str
    seconds: float | None
    stored: int
    memory: int = 0
    basis: str = ""


def estimate(settings: Settings, space: Space) -> list[StageEstimate]:
    """The steps of a nightly run with these settings; without a source, of what the tables alone ask for.

    Raises:
        UsageError: the source is not there.
    """
    warehouse = TableReader(settings)
    measured = rates(warehouse, space.id)
    new, new_bytes, categories = _new(warehouse, settings)
    failed = set(warehouse.read(FAILURES, ("what",), f"stage = 'extract' AND space = '{space.id}'")["what"].to_pylist())
    images = warehouse.read(IMAGES, ("image_id",))["image_id"]
    here = warehouse.read(FEATURES, ("image_id",), f"space = '{space.id}'")["image_id"]
    lacking = images.filter(pc.invert(pc.is_in(images, here))).to_pylist()
    wanted = sum(image_id not in failed for image_id in lacking) + new
    for category, count in _searchable(warehouse).items():
        categories[category] = categories.get(category, 0) + count
    vectors = sum(categories.values())
    budget = settings.index.memory_gb * 1e9 / max(1, vectors)
    memory, stored = 0, 0
    for count in categories.values():
        chosen = candidates(settings.index.kind, count, space.dim, budget * count)[0]
        memory += count * chosen.bytes_per_vector(space.dim)
        refined = 0 if chosen.name.startswith("flat") else 2 * space.dim
        stored += count * (chosen.bytes_per_vector(space.dim) + refined)
    plan = [
        ("ingest", new, "photos", new_bytes, 0),
        ("extract", wanted, "photos", 4 * space.dim * wanted, 0),
        ("load", wanted, "vectors", 4 * space.dim * wanted, 0),
        ("index", wanted if _grows(settings, space, vectors, wanted) else vectors, "vectors", stored, memory),
    ]
    return [_step(*row, rates=measured) for row in plan]


def _grows(settings: Settings, space: Space, vectors: int, new: int) -> bool:
    """Whether the index stage adds to the build in service, and does not make all shards anew."""
    try:
        current = Builds(settings.root).current()
    except DataError:
        return False
    chosen = settings.index
    small = vectors < chosen.whole_below or new > chosen.max_changed * vectors
    return current is not None and current.space == space.id and not small


def backfill(settings: Settings, space: Space, scope: Scope) -> tuple[StageEstimate, Sequence[CoverageCell]]:
    """What a backfill of a space would extract, in all and by ingest date.

    Raises:
        UsageError: the scope cannot be meant, or holds no photo.
    """
    warehouse = TableReader(settings)
    cells = space_coverage(warehouse, space.id, scope)
    wanted = sum(cell.missing for cell in cells)
    return _step("extract", wanted, "photos", 4 * space.dim * wanted, 0, rates=rates(warehouse, space.id)), cells


def duration(seconds: float | None) -> str:
    """Seconds as a person would say them; None is a stage that has no rate yet."""
    return "never measured here" if seconds is None else formatting.duration(seconds)


def _step(
    stage: str, count: int, unit: str, stored: int, memory: int, rates: dict[str, tuple[float, str]]
) -> StageEstimate:
    rate, basis = rates.get(stage, (0.0, ""))
    return StageEstimate(
        stage, count, unit, round(count / rate, 1) if rate else None if count else 0.0, stored, memory, basis
    )


def _new(warehouse: TableReader, settings: Settings) -> tuple[int, int, dict[str, int]]:
    """Places of the source that no run has read: how many, their bytes, and how many by category."""
    if not settings.source.uri:
        return 0, 0, {}
    check_source(settings.source)
    items = read_listing(settings.source).items.select(["uri", "length", "mtime", "category"])
    known = warehouse.read(SOURCES, ("uri", "length", "mtime"))
    unread = items.join(known, ["uri", "length", "mtime"], join_type="left anti")
    places = unread.group_by(["uri"]).aggregate([("length", "max")])
    by_category = unread.group_by(["category"]).aggregate([("uri", "count_distinct")])
    counts = dict(zip(by_category["category"].to_pylist(), by_category["uri_count_distinct"].to_pylist(), strict=True))
    return places.num_rows, int(pc.sum(places["length_max"]).as_py() or 0), counts


def _searchable(warehouse: TableReader) -> dict[str, int]:
    """Images of active listings by category."""
    rows = warehouse.read(LISTINGS, ("category", "image_id", "active"))
    active = rows.filter(rows["active"]).group_by(["category", "image_id"]).aggregate([])
    counts = active.group_by(["category"]).aggregate([("image_id", "count")])
    return dict(zip(counts["category"].to_pylist(), counts["image_id_count"].to_pylist(), strict=True))
