"""Consistency of the keyed store with the tables. (tests/spark compares a whole run.)"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from likeness import storage
from likeness.catalog.products import fold
from likeness.core.errors import UsageError
from likeness.ops import consistency
from likeness.storage import KeyedStore, Product
from likeness.storage.hbase_layout import parse_uri, product_key
from likeness.storage.items import Item
from likeness.storage.table_reader import TableReader

IDS = [hashlib.sha256(bytes([n])).hexdigest() for n in range(39)]


class Tables:
    """Rows of `features` and `listings`, as `TableReader` gives them."""

    def __init__(self, vectors: dict[Item, np.ndarray], listings: list[dict[str, Any]]) -> None:
        self._vectors, self._listings = vectors, listings

    def batches(self, table: Any, columns: Any, where: str = "") -> Iterator[pa.RecordBatch]:
        ids = pa.array([item.image_id for item in self._vectors])
        lists = pa.array([v.tolist() for v in self._vectors.values()], pa.list_(pa.float32()))
        regions = pa.array([item.region for item in self._vectors])
        whole = pa.table({"image_id": ids, "region": regions, "vector": lists}).select(list(columns))
        yield from whole.to_batches(max_chunksize=7)

    def read(self, table: Any, columns: Any) -> pa.Table:
        return pa.Table.from_pylist(self._listings).select(list(columns))


def listing(product: str, image: str, category: str = "hat", active: bool = True) -> dict[str, Any]:
    row = {"product_id": product, "image_id": image, "uri": f"file:///{image}", "category": category}
    return row | {"attributes": "{}", "active": active}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyedStore]:
    opened = storage.keyed(f"sqlite://{tmp_path}/k.sqlite", create=True)
    yield opened
    opened.close()


def test_each_row_that_differs_is_named(store: KeyedStore, rng: np.random.Generator) -> None:
    vectors = {Item(key): rng.standard_normal(6).astype(np.float32) for key in IDS}
    face, other = Item(IDS[3], "face"), Item(IDS[4], "face")
    vectors |= {item: rng.standard_normal(6).astype(np.float32) for item in (face, other)}
    rows = [listing(f"p{n}", key) for n, key in enumerate(IDS)]
    tables = cast(TableReader, Tables(vectors, rows))
    store.put_vectors("s", vectors.items())
    store.put_products(fold(pa.Table.from_pylist(rows).to_batches(max_chunksize=10)))
    assert [*consistency.compare_vectors(tables, store, "s"), *consistency.compare_products(tables, store)] == []
    by_hand = vectors[Item(IDS[3])].copy()
    by_hand[0] = np.nextafter(by_hand[0], np.float32(9))
    rows_by_hand = [(item, by_hand) for item in (Item(IDS[3]), face, Item("f" * 64), Item(IDS[6], "hat"))]
    store.put_vectors("s", rows_by_hand)
    store.delete_vectors("s", [Item(IDS[5]), other])
    items = {(item.kind, item.table, item.key) for item in consistency.compare_vectors(tables, store, "s")}
    assert items == {
        ("stale", "features", IDS[3]),
        ("stale", "features", f"{IDS[3]}/face"),
        ("surplus", "features", "f" * 64),
        ("surplus", "features", f"{IDS[6]}/hat"),
        ("missing", "features", IDS[5]),
        ("missing", "features", f"{IDS[4]}/face"),
    }
    store.put_products([Product("p1", "shoe", {}, (IDS[1],)), Product("new", "hat", {}, ())])
    store.delete_products(["p2"])
    items = {(item.kind, item.table, item.key) for item in consistency.compare_products(tables, store)}
    assert items == {("stale", "listings", "p1"), ("surplus", "listings", "new"), ("missing", "listings", "p2")}


def test_empty_tables_leave_everything_surplus(store: KeyedStore) -> None:
    store.put_vectors("s", [(Item(IDS[0]), np.ones(2))])
    tables = cast(TableReader, Tables({}, []))
    assert [(item.kind, item.key) for item in consistency.compare_vectors(tables, store, "s")] == [("surplus", IDS[0])]


def test_facts_are_those_of_the_first_active_listing() -> None:
    rows = [listing("p", "b", "shoe"), listing("p", "a", "hat"), listing("p", "0", "bag", active=False)]
    batches = [pa.RecordBatch.from_pylist(part) for part in (rows[:1], rows[1:])]
    assert list(fold(batches)) == [Product("p", "hat", {}, ("a", "b"))]
    withdrawn = pa.RecordBatch.from_pylist([listing("p", "a", active=False)])
    assert list(fold([withdrawn])) == [Product("p", "", {}, ())]


def test_row_keys_of_products_spread_evenly() -> None:
    first = [product_key(f"product {n}")[:1] for n in range(16_000)]
    counts = [first.count(b"%x" % digit) for digit in range(16)]
    assert min(counts) > 850
    assert product_key("猫/1")[2:].decode() == "猫/1"


def test_an_hbase_uri_says_where_and_how_patient() -> None:
    place = parse_uri("hbase://a:1,b:2/ns:name?writers=8&retry_s=5")
    assert place.servers == [("a", 1), ("b", 2)]
    assert (place.name, place.writers, place.retry_s, place.timeout_s) == ("ns:name", 8, 5.0, 20.0)
    for uri in (
        "hbase://a/name",
        "hbase://a:1",
        "hbase://a:1/n/m",
        "hbase://a:1/n?retries=1",
        "hbase://a:1/n?writers=x",
    ):
        with pytest.raises(UsageError, match=r"keyed\.uri") as caught:
            parse_uri(uri)
        assert uri in str(caught.value)
