"""Backfill coverage: photos with a vector, failed and missing, by ingest date and feature space. Tables in, counts out.

Counts over all photos come from the tables' metadata, less the vectors of regions, which are beside those of their
photos; counts of one category need a look-up photo by photo.
"""

import datetime
import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.errors import UsageError
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS, Table

_MAX_LISTED = 20


@dataclass(frozen=True)
class Scope:
    """A part of the photos: a range of ingest dates, both ends included, and a category of active listings.

    A field that is None does not restrict.
    """

    first: datetime.date | None = None
    last: datetime.date | None = None
    category: str | None = None

    def __bool__(self) -> bool:
        """Whether the scope restricts anything."""
        return self != Scope()

    def __str__(self) -> str:
        if not self.first and not self.last:
            dates = "all ingest dates"
        else:
            dates = f"ingest dates {self.first or 'from the first'} to {self.last or 'the last'}"
        return dates if self.category is None else f"{dates}, category {self.category!r}"

    def contains(self, ingest_date: str) -> bool:
        """Whether an ingest date (ISO date) is within the range."""
        return str(self.first or ingest_date) <= ingest_date <= str(self.last or ingest_date)


@dataclass(frozen=True)
class CoverageCell:
    """Counts of one ingest date (ISO date) in one space: all photos, those with a vector, those in the ledger."""

    ingest_date: str
    space: str
    photos: int
    present: int
    failed: int

    @property
    def missing(self) -> int:
        """Photos that the next extraction will process."""
        return self.photos - self.present - self.failed


def backfill_coverage(tables: TableReader) -> list[CoverageCell]:
    """Counts for every ingest date in every space that has a vector or a failure, sorted by date and space."""
    return _coverage(tables)


def _coverage(tables: TableReader, spaces: Sequence[str] = ()) -> list[CoverageCell]:
    """Counts for every ingest date in some spaces; by default in all that have a vector or a failure."""
    photos, failed = _rows(tables, IMAGES), _failed(tables)
    present = _rows(tables, FEATURES) - _regions(tables)
    spaces = spaces or sorted({space for _, space in [*present, *failed]}) or [""]
    return [
        CoverageCell(date, space, photos[date, ""], present[date, space], failed[date, space])
        for date, _ in sorted(photos)
        for space in spaces
    ]


def space_coverage(tables: TableReader, space: str, scope: Scope) -> list[CoverageCell]:
    """Counts of one space for the ingest dates of a scope that have at least one photo.

    Raises:
        UsageError: the range is reversed, the category does not exist, or the scope has no photo.
    """
    cells = _coverage(tables, [space])
    _check_dates(scope, [cell.ingest_date for cell in cells])
    if scope.category is None:
        return [cell for cell in cells if scope.contains(cell.ingest_date)]
    rows = _in_category(tables, scope.category)
    dates = rows["ingest_date"].to_pylist()
    inside = rows.filter(pa.array(map(scope.contains, dates), pa.bool_()))
    if not inside.num_rows:
        there = _date_range(dates)
        raise UsageError(f"no photo of category {scope.category!r} is of {_flags(scope)}; its ingest dates are {there}")
    vectors = tables.read(FEATURES, ("image_id",), f"space = '{space}'")["image_id"]
    failures = tables.read(FAILURES, ("what",), f"stage = 'extract' AND space = '{space}'")["what"]
    totals, present, failed = (
        Counter(table["ingest_date"].to_pylist())
        for table in (inside, *(inside.filter(pc.is_in(inside["image_id"], ids)) for ids in (vectors, failures)))
    )
    return [CoverageCell(date, space, totals[date], present[date], failed[date]) for date in sorted(totals)]


def _check_dates(scope: Scope, ingest_dates: Sequence[str]) -> None:
    """Refuses a scope whose range of ingest dates is reversed or has no photo."""
    if scope.first and scope.last and scope.first > scope.last:
        raise UsageError(f"--from {scope.first} is later than --to {scope.last}; exchange them")
    if not ingest_dates:
        raise UsageError("this root has no photos yet; run ./spark-submit.sh nightly or ingest first")
    if not any(map(scope.contains, ingest_dates)):
        there = _date_range(ingest_dates)
        raise UsageError(f"no photo is of {_flags(scope)}; the ingest dates of this root are {there}")


def _flags(scope: Scope) -> str:
    """The range as the user typed it."""
    return " ".join([f"--from {scope.first}"] * bool(scope.first) + [f"--to {scope.last}"] * bool(scope.last))


def _in_category(tables: TableReader, category: str) -> pa.Table:
    """(image_id, ingest_date) of the photos that an active listing shows in a category."""
    image_ids: list[pa.Array] = []
    categories: set[str] = set()
    for batch in tables.batches(LISTINGS, ("category", "image_id", "active")):
        active = batch.filter(batch.column("active"))
        categories.update(pc.unique(active.column("category")).to_pylist())
        matches = active.filter(pc.equal(active.column("category"), category))
        image_ids.append(matches.column("image_id").cast(pa.string()))
    if category not in categories:
        near = difflib.get_close_matches(category, categories, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"--category {category!r}: no active listing has this category.{hint} Categories: {_quoted(categories)}"
        )
    rows = tables.read(IMAGES, ("image_id", "ingest_date"))
    rows = rows.filter(pc.is_in(rows["image_id"], pa.chunked_array(image_ids, pa.string())))
    return rows.set_column(1, "ingest_date", rows["ingest_date"].cast(pa.string()))


def _rows(tables: TableReader, table: Table) -> Counter[tuple[str, str]]:
    """Rows of a table by ingest date and space, from its metadata."""
    counts = Counter[tuple[str, str]]()
    for part in tables.partitions(table):
        counts[str(part.ingest_date), part.space] += part.rows
    return counts


def _regions(tables: TableReader) -> Counter[tuple[str, str]]:
    """Vectors of regions, beside those of their photos, by ingest date and space."""
    return _count(tables.read(FEATURES, ("ingest_date", "space"), "region > ''"))


def _count(rows: pa.Table) -> Counter[tuple[str, str]]:
    return Counter(zip(map(str, rows["ingest_date"].to_pylist()), rows["space"].to_pylist(), strict=True))


def _failed(tables: TableReader) -> Counter[tuple[str, str]]:
    """Extraction failures in the ledger by ingest date and space."""
    failures = tables.read(FAILURES, ("what", "space"), where="stage = 'extract'")
    if not failures.num_rows:
        return Counter()
    return _count(failures.join(tables.read(IMAGES, ("image_id", "ingest_date")), "what", "image_id", "inner"))


def _date_range(ingest_dates: Iterable[str]) -> str:
    """First and last date with their number, such as `2026-01-02 to 2026-01-09 (3)`."""
    dates = sorted(set(ingest_dates))
    return f"{dates[0]} to {dates[-1]} ({len(dates)})" if dates else "none"


def _quoted(names: Iterable[object]) -> str:
    """Sorted names in quotes; the first ones only if there are many, with the number left out."""
    ordered = sorted({str(name) for name in names})
    more = f" and {len(ordered) - _MAX_LISTED} more" if len(ordered) > _MAX_LISTED else ""
    return (", ".join(map(repr, ordered[:_MAX_LISTED])) or "none") + more
