"""Scopes: which ingest dates they hold, and how they are said."""

import datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from likeness.core.settings import Settings
from likeness.ops.backfill_coverage import CoverageCell, Scope, backfill_coverage
from likeness.storage.table_reader import Partition, TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, Table

DAY = st.dates(datetime.date(999, 12, 1), datetime.date(2101, 1, 1))


@given(st.none() | DAY, st.none() | DAY, DAY)
def test_a_scope_holds_what_lies_between_its_ends(
    first: datetime.date, last: datetime.date, day: datetime.date
) -> None:
    between = (first is None or first <= day) and (last is None or day <= last)
    assert Scope(first, last).contains(day.isoformat()) == between


def test_a_scope_says_what_it_leaves_out() -> None:
    first, last = datetime.date(2026, 1, 2), datetime.date(2026, 2, 3)
    assert [bool(scope) for scope in (Scope(), Scope(first), Scope(category=""))] == [False, True, True]
    assert str(Scope()) == "all ingest dates"
    assert str(Scope(first, last)) == "ingest dates 2026-01-02 to 2026-02-03"
    assert str(Scope(last=last, category="鞋")) == "ingest dates from the first to 2026-02-03, category '鞋'"
    assert str(Scope(first)) == "ingest dates 2026-01-02 to the last"


def test_a_failed_photo_is_not_missing() -> None:
    assert CoverageCell("2026-01-02", "s@1", photos=10, present=6, failed=1).missing == 3


class Reader(TableReader):
    """Three photos of one date; all have vectors of whole photos, and two regions have some too."""

    def partitions(self, schema: Table, snapshot: int | None = None) -> list[Partition]:
        date = datetime.date(2026, 1, 2)
        return {IMAGES.name: [Partition(3, "", date)], FEATURES.name: [Partition(5, "s@1", date)]}[schema.name]

    def read(self, schema: Table, columns: object = (), where: str = "", snapshot: int | None = None) -> pa.Table:
        if schema is FAILURES:
            return pa.table({"what": pa.array([], pa.string()), "space": pa.array([], pa.string())})
        assert (schema.name, where) == (FEATURES.name, "region > ''")
        return pa.table({"ingest_date": [datetime.date(2026, 1, 2)] * 2, "space": ["s@1"] * 2})


def test_a_region_is_no_further_photo() -> None:
    assert backfill_coverage(Reader(Settings())) == [CoverageCell("2026-01-02", "s@1", 3, 3, 0)]
