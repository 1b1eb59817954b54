"""The matrix of work, epochs x feature spaces: a root's tables in; photos present, failed and missing out.

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
    """A part of the photos: from an epoch to an epoch, both included, and shown in a category by an active listing.

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
            epochs = "all epochs"
        else:
            epochs = f"epochs {self.first or 'from the first'} to {self.last or 'the last'}"
        return epochs if self.category is None else f"{epochs}, category {self.category!r}"

    def holds(self, epoch: str) -> bool:
        """Whether an epoch (ISO date) is within."""
        return str(self.first or epoch) <= epoch <= str(self.last or epoch)


@dataclass(frozen=True)
class CoverageCell:
    """One epoch (ISO date) in one space: its photos, those that have a vector, and those that stand failed."""

    epoch: str
    space: str
    photos: int
    present: int
    failed: int

    @property
    def missing(self) -> int:
        """What the next extraction takes up."""
        return self.photos - self.present - self.failed


def backfill_coverage(warehouse: TableReader) -> list[CoverageCell]:
    """Every epoch in every space that has a vector or a failure, by epoch and space."""
    photos, present, failed = _photos(warehouse), _present(warehouse), _failed(warehouse)
    spaces = sorted({space for _, space in [*present, *failed]}) or [""]
    return [
        CoverageCell(epoch, space, photos[epoch], present[epoch, space], failed[epoch, space])
        for epoch in sorted(photos)
        for space in spaces
    ]


def space_coverage(warehouse: TableReader, space: str, scope: Scope) -> list[CoverageCell]:
    """The epochs of a scope in one space, each with at least one photo.

    Raises:
        UsageError: the scope cannot be meant as given, or holds no photo.
    """
    photos = _photos(warehouse)
    _check(scope, photos)
    if scope.category is None:
        present, failed = _present(warehouse), _failed(warehouse)
        epochs = [epoch for epoch in sorted(photos) if scope.holds(epoch)]
        return [CoverageCell(e, space, photos[e], present[e, space], failed[e, space]) for e in epochs]
    rows = _in_category(warehouse, scope.category)
    inside = rows.filter(pa.array([scope.holds(epoch) for epoch in rows["epoch"].to_pylist()], pa.bool_()))
    if not inside.num_rows:
        there = _epochs(rows["epoch"].to_pylist())
        raise UsageError(f"no photo of category {scope.category!r} is of {_range(scope)}; its epochs are {there}")
    vectors = warehouse.read(FEATURES, ("image_id",), f"space = '{space}'")["image_id"]
    failures = warehouse.read(FAILURES, ("what",), f"stage = 'extract' AND space = '{space}'")["what"]
    totals, present, failed = (
        Counter(table["epoch"].to_pylist())
        for table in (inside, *(inside.filter(pc.is_in(inside["image_id"], ids)) for ids in (vectors, failures)))
    )
    return [CoverageCell(epoch, space, totals[epoch], present[epoch], failed[epoch]) for epoch in sorted(totals)]


def _check(scope: Scope, photos: Counter[str]) -> None:
    """Says what of a scope cannot be meant, but for its category."""
    if scope.first and scope.last and scope.first > scope.last:
        raise UsageError(f"--from {scope.first} is later than --to {scope.last}; exchange them")
    if not photos:
        raise UsageError("this root holds no photos yet; run ./spark-submit.sh nightly or ingest first")
    if not any(map(scope.holds, photos)):
        raise UsageError(f"no photo is of {_range(scope)}; the epochs of this root are {_epochs(photos)}")


def _range(scope: Scope) -> str:
    given = [f"--from {scope.first}"] * bool(scope.first) + [f"--to {scope.last}"] * bool(scope.last)
    return " ".join(given)


def _in_category(warehouse: TableReader, category: str) -> pa.Table:
    """(image_id, epoch) of the photos that an active listing shows in a category."""
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
    rows = warehouse.read(IMAGES, ("image_id", "epoch"))
    rows = rows.filter(pc.is_in(rows["image_id"], pa.chunked_array(found, pa.string())))
    return rows.set_column(1, "epoch", rows["epoch"].cast(pa.string()))


def _photos(warehouse: TableReader) -> Counter[str]:
    """Photos by epoch."""
    found = Counter[str]()
    for part in warehouse.partitions(IMAGES):
        found[str(part["epoch"])] += part["rows"]
    return found


def _present(warehouse: TableReader) -> Counter[tuple[str, str]]:
    """Vectors by epoch and space."""
    found = Counter[tuple[str, str]]()
    for part in warehouse.partitions(FEATURES):
        found[str(part["epoch"]), part["space"]] += part["rows"]
    return found


def _failed(warehouse: TableReader) -> Counter[tuple[str, str]]:
    """Standing failures of extraction by epoch and space."""
    failures = warehouse.read(FAILURES, ("what", "space"), where="stage = 'extract'")
    if not failures.num_rows:
        return Counter()
    epochs = warehouse.read(IMAGES, ("image_id", "epoch"))
    counts = (
        failures.join(epochs, "what", "image_id", "inner").group_by(["epoch", "space"]).aggregate([("what", "count")])
    )
    return Counter({(str(row["epoch"]), row["space"]): row["what_count"] for row in counts.to_pylist()})


def _epochs(names: Iterable[str]) -> str:
    found = sorted(set(names))
    return f"{found[0]} to {found[-1]} ({len(found)})" if found else "none"


def _named(names: Iterable[object]) -> str:
    """Some names, in their order; of many the first and how many more."""
    ordered = sorted({str(name) for name in names})
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return (", ".join(map(repr, ordered[:_NAMED])) or "none") + more
