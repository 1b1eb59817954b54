"""Catalogues in CSV, JSON lines and Parquet: the same rows, and a reason for each that cannot be used."""

import csv
import datetime
import decimal
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.catalog.sources import Listing, catalogues, read_listing
from likeness.core.errors import UsageError
from likeness.core.settings import Source

Rows = Sequence[dict[str, Any]]


def as_csv(path: Path, rows: Rows) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def as_json_lines(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def as_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "csv": as_csv,
    "jsonl": as_json_lines,
    "ndjson": as_json_lines,
    "parquet": as_parquet,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source of three photos."""
    for name in ("hat/a.jpg", "hat/b.jpg", "c.jpg"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(name.encode())
    return tmp_path / "source"


def listed(source: Path, **more: str) -> Listing:
    return read_listing(Source(uri=str(source), **more))


def row(product_id: Any, image: str, category: str, **more: Any) -> dict[str, Any]:
    return {"product_id": product_id, "image": image, "category": category, **more}


def reasons(listing: Listing) -> list[tuple[str, str]]:
    """(row, reason) of everything that was rejected."""
    return [(what.rpartition("#")[2], bad.reason) for what, bad in listing.rejected]


@pytest.mark.parametrize("suffix", WRITERS)
def test_rows_of_every_kind(source: Path, suffix: str) -> None:
    rows = [
        row("1", "hat/a.jpg", "帽子/夏 2.0", active="true", brand='A, "quoted"\nline', colour="red"),
        row("2", "./hat//./b.jpg", "hat", active="No", brand="", colour="blue"),
        row("商品/3", "hat/a.jpg", " hat ", active="1", brand="x", colour="y"),
    ]
    WRITERS[suffix](source / f"catalogue.{suffix}", rows)
    listing = listed(source)
    assert listing.rejected == []
    assert (listing.ignored, listing.unlisted) == (0, 1)
    rows = [
        (
            r["product_id"],
            r["uri"].removeprefix(f"file://{source}/"),
            r["category"],
            r["active"],
            json.loads(r["attributes"]),
        )
        for r in listing.items.to_pylist()
    ]
    assert rows == [
        ("1", "hat/a.jpg", "帽子/夏 2.0", True, {"brand": 'A, "quoted"\nline', "colour": "red"}),
        ("2", "hat/b.jpg", "hat", False, {"brand": "", "colour": "blue"}),
        ("商品/3", "hat/a.jpg", "hat", True, {"brand": "x", "colour": "y"}),
    ]


def test_the_order_of_the_columns_changes_nothing(source: Path) -> None:
    rows = []
    for facts in ({"colour": "red", "brand": "x"}, {"brand": "x", "colour": "red"}):
        as_csv(source / "catalogue.csv", [row("1", "c.jpg", "c", **facts)])
        rows.append(listed(source).items["attributes"].to_pylist())
    assert rows[0] == rows[1]  # else every product would have changed


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_values_that_are_no_text(source: Path, suffix: str) -> None:
    rows = [row(7, "c.jpg", "1", active=False, size=5, price=0.5, tags=["a", "猫"], more={"x": True}, nothing=None)]
    WRITERS[suffix](source / f"catalogue.{suffix}", rows)
    (item,) = listed(source).items.to_pylist()
    assert (item["product_id"], item["category"], item["active"]) == ("7", "1", False)
    assert json.loads(item["attributes"]) == {
        "size": "5",
        "price": "0.5",
        "tags": '["a", "猫"]',
        "more": '{"x": true}',
    }


def test_parquet_types(source: Path) -> None:
    facts = {"day": datetime.date(2026, 1, 2), "price": decimal.Decimal("9.90"), "code": b"x\xff", "on": True}
    as_parquet(source / "catalogue.parquet", [row(b"1", "c.jpg", "c", **facts)])
    (item,) = listed(source).items.to_pylist()
    assert item["product_id"] == "1"
    assert json.loads(item["attributes"]) == {"day": "2026-01-02", "price": "9.90", "code": "x\\xff", "on": "true"}


@pytest.mark.parametrize(
    ("given_", "active"),
    [("", True), ("TRUE", True), ("1", True), (" yes ", True), ("False", False), ("0", False), ("no", False)],
)
def test_the_active_flag(source: Path, given_: str, active: bool) -> None:
    as_csv(source / "catalogue.csv", [row("1", "c.jpg", "c", active=given_)])
    assert listed(source).items["active"].to_pylist() == [active]


def test_an_active_flag_that_says_neither(source: Path) -> None:
    as_csv(source / "catalogue.csv", [row("1", "c.jpg", "c", active="maybe"), row("2", "c.jpg", "c", active="1")])
    listing = listed(source)
    assert reasons(listing) == [("1", "bad_row")]
    assert "maybe" in listing.rejected[0][1].detail
    assert listing.items["product_id"].to_pylist() == ["2"]


OUTSIDE = [
    "../secret.jpg",
    "hat/../../secret.jpg",
    "/etc/passwd",
    "file:///etc/passwd",
    "file:/etc/passwd",
    "http://host/a.jpg",
    "s3a://bucket/a.jpg",
    "..\\secret.jpg",
    "\\\\host\\a.jpg",
    "C:\\a.jpg",
]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_path_that_leaves_the_source_is_a_row_and_never_opened(source: Path, suffix: str) -> None:
    (source.parent / "secret.jpg").write_bytes(b"secret")
    rows = [row(str(number), path, "c") for number, path in enumerate(OUTSIDE)]
    WRITERS[suffix](source / f"catalogue.{suffix}", rows)
    listing = listed(source)
    assert listing.items.num_rows == 0
    assert reasons(listing) == [(str(number), "outside_source") for number in range(1, len(OUTSIDE) + 1)]
    assert all(repr(path) in bad.detail for path, (_, bad) in zip(OUTSIDE, listing.rejected, strict=True))
    assert listing.unlisted == 3


def test_missing_and_incomplete_rows(source: Path) -> None:
    rows = [
        row("1", "nowhere.jpg", "c"),
        row("", "c.jpg", "c"),
        row("3", " ", "c"),
        row("4", "c.jpg", ""),
        row("5", "c.jpg", "c"),
        row("", "", ""),
        row("7", "hat", "c"),
        row("8", ".", "c"),
        row("9", "a:b.jpg", "c"),
    ]
    as_csv(source / "catalogue.csv", rows)
    listing = listed(source)
    assert listing.items["product_id"].to_pylist() == ["5"]
    assert reasons(listing) == [
        ("1", "missing_file"),
        ("2", "bad_row"),
        ("3", "bad_row"),
        ("4", "bad_row"),
        ("6", "bad_row"),
        ("7", "missing_file"),
        ("8", "missing_file"),
        ("9", "missing_file"),
    ]
    assert listing.rejected[1][1].detail == "no product_id"
    assert listing.rejected[4][1].detail == "no product_id and no image and no category"
    assert "'nowhere.jpg' of product '1'" in listing.rejected[0][1].detail


def test_a_row_repeated(source: Path) -> None:
    rows = [
        row("1", "c.jpg", "c", colour="red"),
        row("1", "c.jpg", "c", colour="red"),
        row("1", "./c.jpg", "c", colour="blue"),
        row("1", "c.jpg", "d", colour="red"),
        row("1", "hat/a.jpg", "d", colour="red"),
        row("2", "c.jpg", "d", colour="red"),
        row("1", "c.jpg", "c", colour="red", active="no"),
    ]
    as_csv(source / "catalogue.csv", rows)
    listing = listed(source)
    rows = [(r["product_id"], r["uri"].rpartition("/")[2], r["category"]) for r in listing.items.to_pylist()]
    assert rows == [("1", "c.jpg", "c"), ("1", "a.jpg", "d"), ("2", "c.jpg", "d")]
    assert reasons(listing) == [("3", "conflicting_row"), ("4", "conflicting_row"), ("7", "conflicting_row")]
    assert listing.unlisted == 1


def test_csv_as_others_write_it(source: Path) -> None:
    text = (
        '\ufeffproduct_id,image,category,note\r\n1,"c.jpg","a ""b"", c",x\r\n\r\n2,c.jpg,c\r\n3,c.jpg,c,x,too many\r\n'
    )
    (source / "catalogue.csv").write_text(text, encoding="utf-8", newline="")
    listing = listed(source)
    rows = [(r["product_id"], r["category"], r["attributes"]) for r in listing.items.to_pylist()]
    assert rows == [("1", 'a "b", c', '{"note": "x"}'), ("2", "c", "{}")]
    assert reasons(listing) == [("3", "bad_row")]
    assert listing.rejected[0][1].detail == "1 more fields than the header"


def test_json_lines_as_others_write_them(source: Path) -> None:
    lines = [
        json.dumps(row("1", "c.jpg", "c")),
        "",
        "{not json",
        "[1, 2]",
        '"text"',
        "[" * 100_000,
        '{"product_id": ' + "9" * 5000 + ', "image": "c.jpg", "category": "c"}',
        '{"product_id": "\\ud800", "image": "c.jpg", "category": "c"}',
        '{"product_id": "8", "image": "c.jpg", "category": "c", "\\udfff": "x"}',
        json.dumps(row("9", "c.jpg", "c")),
    ]
    (source / "catalogue.jsonl").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    listing = listed(source)
    assert listing.items["product_id"].to_pylist() == ["1", "9"]
    assert reasons(listing) == [(str(number), "bad_row") for number in range(2, 9)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("catalogue.csv", b"", "has no column product_id, image, category"),
        ("catalogue.csv", b"product_id;image;category\n", "has no column"),
        ("catalogue.csv", b"id,image,category\n1,c.jpg,c\n", "has no column product_id; it has id, image, category"),
        ("catalogue.csv", b"product_id,image,category\n1,c.jpg,caf\xe9\n", "UTF-8"),
        ("catalogue.csv", b'product_id,image,category\n1,"c.jpg,' + b"x" * 200_000, "field larger"),
        ("catalogue.jsonl", b"\xff\xfe", "UTF-8"),
        ("catalogue.parquet", b"PAR1 no more", "cannot be read"),
        ("catalogue.parquet", b"", "cannot be read"),
    ],
)
def test_a_catalogue_that_cannot_be_read(source: Path, name: str, content: bytes, message: str) -> None:
    (source / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        listed(source)
    assert f"{source}/{name}" in str(caught.value)


def test_an_empty_json_lines_file_has_no_rows(source: Path) -> None:
    (source / "catalogue.jsonl").write_bytes(b"")
    listing = listed(source)
    assert (listing.items.num_rows, listing.rejected, listing.unlisted) == (0, [], 3)


def test_a_parquet_catalogue_without_a_column(source: Path) -> None:
    pq.write_table(pa.table({"product_id": ["1"], "image": ["c.jpg"]}), source / "catalogue.parquet")
    with pytest.raises(UsageError, match="has no column category"):
        listed(source)


def test_a_named_catalogue(source: Path) -> None:
    elsewhere = source.parent / "mine.CSV"
    as_csv(elsewhere, [row("1", "c.jpg", "c")])
    as_csv(source / "catalogue.csv", [row("2", "c.jpg", "c")])
    listing = listed(source, catalogue=str(elsewhere))
    assert listing.items["product_id"].to_pylist() == ["1"]
    assert listing.ignored == 1  # the other catalogue


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_named_catalogue_inside_the_source_is_no_photo_and_no_archive(source: Path, suffix: str) -> None:
    WRITERS[suffix](source / f"products.{suffix}", [row("1", "c.jpg", "c")])
    listing = listed(source, catalogue=str(source / f"products.{suffix}"))
    assert listing.items["product_id"].to_pylist() == ["1"]
    assert (listing.ignored, listing.rejected) == (0, [])


def test_the_first_of_several_catalogues_is_read(source: Path) -> None:
    as_parquet(source / "catalogue.parquet", [row("2", "c.jpg", "c")])
    as_csv(source / "catalogue.csv", [row("1", "c.jpg", "c")])
    listing = listed(source)
    assert listing.items["product_id"].to_pylist() == ["1"]
    assert (listing.ignored, listing.rejected) == (1, [])


@pytest.mark.parametrize(("name", "message"), [("nowhere.csv", "no such file"), ("mine.xlsx", "unknown suffix .xlsx")])
def test_a_named_catalogue_that_cannot_be_used(source: Path, name: str, message: str) -> None:
    (source.parent / "mine.xlsx").write_bytes(b"x")
    with pytest.raises(UsageError, match=message):
        listed(source, catalogue=str(source.parent / name))


def test_the_bundled_catalogue(sample: Path) -> None:
    listing = listed(sample)
    assert 120 <= listing.items.num_rows <= 200
    assert (listing.rejected, listing.unlisted) == ([], 0)
    assert len(set(listing.items["category"].to_pylist())) >= 8


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), max_size=5))
def test_any_text_comes_through_a_csv(rows: list[tuple[str, str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "any.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerows([("product_id", "image", "category", "x"), *rows])
        parsed = list(catalogues.read(f"file://{path}"))
    assert [row.number for row in parsed] == list(range(1, len(rows) + 1))
    for values, there in zip(rows, parsed, strict=True):
        if any(not value.strip() for value in values[:3]):
            assert there.error
        else:
            assert (there.product_id, there.image, there.category) == tuple(value.strip() for value in values[:3])
            assert there.attributes == {"x": values[3]}
