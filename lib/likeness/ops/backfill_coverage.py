"""The matrix of work, ingest dates x feature spaces: a root's tables in; photos present, failed and missing out.

What is asked of all photos is answered from the tables' metadata; a category is looked up photo by photo.
"""

import datetime
import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.errors import UsageError
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS

_NAMED = 20


@dataclass(frozen=True)
class Scope:
    """A part of the photos: a range of ingest dates, both ends included, and a category of active listings.

    What is None restricts nothing.
    """

    first: datetime.date | None = None
    last: datetime.date | None = None
    category: str | None = None

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return self != Scope()

    def __str__(self) -> str:
        if not self.first and not self.last:
            dates = "all ingest dates"
        else:
            dates = f"ingest dates {self.first or 'from the first'} to {self.last or 'the last'}"
        return dates if self.category is None else f"{dates}, category {self.category!r}"

    def holds(self, ingest_date: str) -> bool:
        """Whether an ingest date (ISO date) is within."""
        return str(self.first or ingest_date) <= ingest_date <= str(self.last or ingest_date)


@dataclass(frozen=True)
class CoverageCell:
    """One ingest date (ISO date) in one space: its photos, those that have a vector, and those that stand failed."""

    ingest_date: str
    space: str
    photos: int
    present: int
    failed: int

    @property
    def missing(self) -> int:
        """What the next extraction takes up."""
        return self.photos - self.present - self.failed


def backfill_coverage(warehouse: TableReader) -> list[CoverageCell]:
    """Every ingest date in every space that has a vector or a failure, by ingest date and space."""
    photos, present, failed = _photos(warehouse), _present(warehouse), _failed(warehouse)
    spaces = sorted({space for _, space in [*present, *failed]}) or [""]
    return [
        CoverageCell(ingest_date, space, photos[ingest_date], present[ingest_date, space], failed[ingest_date, space])
        for ingest_date in sorted(photos)
        for space in spaces
    ]


def space_coverage(warehouse: TableReader, space: str, scope: Scope) -> list[CoverageCell]:
    """The ingest dates of a scope in one space, each with at least one photo.

    Raises:
        UsageError: the scope cannot be meant as given, or holds no photo.
    """
    photos = _photos(warehouse)
    _check(scope, photos)
    if scope.category is None:
        present, failed = _present(warehouse), _failed(warehouse)
        dates = [ingest_date for ingest_date in sorted(photos) if scope.holds(ingest_date)]
        return [CoverageCell(e, space, photos[e], present[e, space], failed[e, space]) for e in dates]
    rows = _in_category(warehouse, scope.category)
    inside = rows.filter(
        pa.array([scope.holds(ingest_date) for ingest_date in rows["ingest_date"].to_pylist()], pa.bool_())
    )
    if not inside.num_rows:
        there = _date_range(rows["ingest_date"].to_pylist())
        raise UsageError(f"no photo of category {scope.category!r} is of {_range(scope)}; its ingest dates are {there}")
    vectors = warehouse.read(FEATURES, ("image_id",), f"space = '{space}'")["image_id"]
    failures = warehouse.read(FAILURES, ("what",), f"stage = 'extract' AND space = '{space}'")["what"]
    totals, present, failed = (
        Counter(table["ingest_date"].to_pylist())
        for table in (inside, *(inside.filter(pc.is_in(inside["image_id"], ids)) for ids in (vectors, failures)))
    )
    return [
        CoverageCell(ingest_date, space, totals[ingest_date], present[ingest_date], failed[ingest_date])
        for ingest_date in sorted(totals)
    ]


def _check(scope: Scope, photos: Counter[str]) -> None:
    """Says what of a scope cannot be meant, but for its category."""
    if scope.first and scope.last and scope.first > scope.last:
        raise UsageError(f"--from {scope.first} is later than --to {scope.last}; exchange them")
    if not photos:
        raise UsageError("this root holds no photos yet; run ./spark-submit.sh nightly or ingest first")
    if not any(map(scope.holds, photos)):
        raise UsageError(f"no photo is of {_range(scope)}; the ingest dates of this root are {_date_range(photos)}")


def _range(scope: Scope) -> str:
    given = [f"--from {scope.first}"] * bool(scope.first) + [f"--to {scope.last}"] * bool(scope.last)
    return " ".join(given)


def _in_category(warehouse: TableReader, category: str) -> pa.Table:
    """(image_id, ingest_date) of the photos that an active listing shows in a category."""
    found: list[pa.Array] = []
    known: set[str] = set()
    for batch in warehouse.batches(LISTINGS, ("category", "image_id", "active")):
        active = batch.filter(batch.column("active"))
        known.update(pc.unique(active.column("category")).to_pylist())
        found.append(active.filter(pc.equal(active.column("category"), category)).column("image_id").cast(pa.string()))
    if category not in known:
        near = difflib.get_close_matches(category, known, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ";"
        raise UsageError(
            f"--category {category!r}: no active listing is of this category{meant} there are: {_named(known)}"
        )
    rows = warehouse.read(IMAGES, ("image_id", "ingest_date"))
    rows = rows.filter(pc.is_in(rows["image_id"], pa.chunked_array(found, pa.string())))
    return rows.set_column(1, "ingest_date", rows["ingest_date"].cast(pa.string()))


def _photos(warehouse: TableReader) -> Counter[str]:
    """Photos by ingest date."""
    found = Counter[str]()
    for part in warehouse.partitions(IMAGES):
        found[str(part["ingest_date"])] += part["rows"]
    return found


def _present(warehouse: TableReader) -> Counter[tuple[str, str]]:
    """Vectors by ingest date and space."""
    found = Counter[tuple[str, str]]()
    for part in warehouse.partitions(FEATURES):
        found[str(part["ingest_date"]), part["space"]] += part["rows"]
    return found


def _failed(warehouse: TableReader) -> Counter[tuple[str, str]]:
    """Standing failures of extraction by ingest date and space."""
    failures = warehouse.read(FAILURES, ("what", "space"), where="stage = 'extract'")
    if not failures.num_rows:
        return Counter()
    dates = warehouse.read(IMAGES, ("image_id", "ingest_date"))
    counts = (
        failures.join(dates, "what", "image_id", "inner")
        .group_by(["ingest_date", "space"])
        .aggregate([("what", "count")])
    )
    return Counter({(str(row["ingest_date"]), row["space"]): row["what_count"] for row in counts.to_pylist()})


def _date_range(names: Iterable[str]) -> str:
    found = sorted(set(names))
    return f"{found[0]} to {found[-1]} ({len(found)})" if found else "none"


def _named(names: Iterable[object]) -> str:
    """Some names, in their order; of many the first and how many more."""
    ordered = sorted({str(name) for name in names})
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return (", ".join(map(repr, ordered[:_NAMED])) or "none") + more
