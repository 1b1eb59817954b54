"""What every keyed store does (likeness.storage.ports.KeyedStore). Add a factory to try another store."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from likeness import storage
from likeness.core.errors import ServiceError, UsageError
from likeness.storage import KeyedStore, Product
from likeness.storage.hbase_layout import IMAGES, MARKS, PRODUCTS
from likeness.storage.items import Item
from likeness.storage.keyed_hbase import HbaseStore


def sqlite(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/folder/keyed.sqlite"


def hbase(request: pytest.FixtureRequest) -> str:
    """Tables that are made once and emptied for each test: to make some takes HBase seconds."""
    uri = f"{request.getfixturevalue('stack').hbase}/contract"
    store = storage.keyed(uri, create=True)
    tables = cast(HbaseStore, store)
    for table in (IMAGES, PRODUCTS, MARKS):
        tables._send("delete", table, [(key, None) for key, _ in tables._scan(table, [])])
    store.close()
    return uri


FACTORIES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "sqlite": lambda request: sqlite(request.getfixturevalue("tmp_path")),
    "hbase": hbase,
}
"""Each gives the URI of a store that is empty."""
NEEDS_STACK = {"hbase"}

UNREACHABLE = {
    "sqlite": lambda tmp_path: f"sqlite://{tmp_path}/file/keyed.sqlite",
    "hbase": lambda tmp_path: "hbase://127.0.0.1:1/likeness",
}
"""Each gives the URI of a store that cannot be reached, once `tmp_path/file` is a file."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.stack] * (name in NEEDS_STACK)) for name in FACTORIES])
def uri(request: pytest.FixtureRequest) -> str:
    return FACTORIES[request.param](request)


@pytest.fixture
def store(uri: str) -> Iterator[KeyedStore]:
    opened = storage.keyed(uri, create=True)
    yield opened
    opened.close()


A, B, C = Item("a"), Item("b"), Item("c")


def photos(count: int) -> list[Item]:
    rng = np.random.default_rng(5)
    return [Item(rng.bytes(32).hex()) for _ in range(count)]


def vectors(rng: np.random.Generator, count: int, dim: int = 8) -> dict[Item, np.ndarray]:
    return dict(zip(photos(count), rng.standard_normal((count, dim), np.float32), strict=True))


def same(stored: dict[Item, np.ndarray], expected: dict[Item, np.ndarray]) -> bool:
    return stored.keys() == expected.keys() and all(
        stored[key].dtype == np.float32 and stored[key].tobytes() == expected[key].tobytes() for key in expected
    )


def test_how_many_may_write_is_said(store: KeyedStore) -> None:
    assert store.writers >= 1


def test_vectors_come_back_to_the_bit(store: KeyedStore, rng: np.random.Generator) -> None:
    for dim in (1, 1280, 4096):
        put = vectors(rng, 3, dim)
        assert store.put_vectors(f"space{dim}", put.items()) == 3
        assert same(store.get_vectors(f"space{dim}", list(put)), put)
    odd = np.array([0.0, -0.0, 1e-45, -1e-38, 3.4e38, 1 / 3, np.pi], np.float32)
    store.put_vectors("odd", [(Item("a" * 64), odd)])
    assert store.get_vectors("odd", [Item("a" * 64)])[Item("a" * 64)].tobytes() == odd.tobytes()


def test_other_kinds_of_arrays_become_float32(store: KeyedStore) -> None:
    store.put_vectors(
        "s", [(A, np.arange(3)), (B, np.arange(6, dtype=np.float64)[::2]), (C, np.arange(3, dtype=">f4"))]
    )
    stored = store.get_vectors("s", [A, B, C])
    assert {key: (value.dtype, value.tolist()) for key, value in stored.items()} == {
        A: (np.float32, [0, 1, 2]),
        B: (np.float32, [0, 2, 4]),
        C: (np.float32, [0, 1, 2]),
    }


def test_puts_may_be_repeated(store: KeyedStore, rng: np.random.Generator) -> None:
    put = vectors(rng, 700)
    for _ in range(2):
        assert store.put_vectors("s", put.items()) == 700
    assert same(dict(store.scan_vectors("s")), put)
    product = Product("1", "hat", {}, ("a",))
    for _ in range(2):
        assert store.put_products([product]) == 1
    assert list(store.scan_products()) == [product]


def test_a_later_put_replaces(store: KeyedStore) -> None:
    store.put_vectors("s", [(A, np.ones(3)), (A, np.zeros(5))])
    assert store.get_vectors("s", [A])[A].tolist() == [0] * 5
    store.put_products([Product("1", "hat", {"x": "y"}, ("a", "b"))])
    store.put_products([Product("1", "shoe", {}, ())])
    assert store.get_products(["1"]) == {"1": Product("1", "shoe", {}, ())}


def test_unknown_keys_are_left_out(store: KeyedStore) -> None:
    store.put_vectors("s", [(A, np.ones(1))])
    store.put_products([Product("1", "hat", {}, ())])
    assert list(store.get_vectors("s", [B, A, C])) == [A]
    assert list(store.get_products(["2", "1", ""])) == ["1"]
    assert store.get_vectors("s", []) == store.get_vectors("nowhere", [A]) == store.get_products([]) == {}
    assert list(store.scan_vectors("nowhere")) == []


def test_a_key_asked_twice_is_answered(store: KeyedStore) -> None:
    store.put_vectors("s", [(A, np.ones(1))])
    assert list(store.get_vectors("s", [A, A])) == [A]


@pytest.mark.parametrize("count", [499, 500, 501, 2000])
def test_many_keys_at_once(store: KeyedStore, rng: np.random.Generator, count: int) -> None:
    put = vectors(rng, count, 4)
    assert store.put_vectors("s", put.items()) == count
    assert same(store.get_vectors("s", list(put)), put)
    products = [Product(f"p{number}", "hat", {}, (str(number),)) for number in range(count)]
    assert store.put_products(iter(products)) == count
    assert store.get_products([product.product_id for product in products]) == {p.product_id: p for p in products}


def test_two_spaces_are_kept_apart(store: KeyedStore) -> None:
    store.put_vectors("alexnet.fc6@1", [(A, np.ones(2)), (B, np.ones(2))])
    store.put_vectors("alexnet.fc6@2", [(A, np.zeros(3))])
    assert store.get_vectors("alexnet.fc6@1", [A])[A].tolist() == [1, 1]
    assert store.get_vectors("alexnet.fc6@2", [A, B]).keys() == {A}
    assert [item for item, _ in store.scan_vectors("alexnet.fc6@1")] == [A, B]
    assert [item for item, _ in store.scan_vectors("alexnet.fc6@2")] == [A]


def test_scans_are_in_the_order_of_the_keys(store: KeyedStore, rng: np.random.Generator) -> None:
    put = vectors(rng, 1200, 2)
    store.put_vectors("s", put.items())
    assert [item for item, _ in store.scan_vectors("s")] == sorted(put)
    ids = ["猫", "b", "a", "B", "10", "9", "é", "z/1", "𝒳", "～"]
    store.put_products(Product(product_id, "c", {}, ()) for product_id in ids)
    assert sorted(product.product_id for product in store.scan_products()) == sorted(ids)


ODD = [
    Product("商品/1 2.0", "裤子/夏", {"颜色": "红", "size": "5/6"}, ("a" * 64,)),
    Product('it\'s "quoted"; DROP TABLE products;--', "a'b", {"k'": '"'}, ()),
    Product("", "", {}, ()),
    Product("%_*", "c", {"": ""}, ("b", "a")),
    Product("\n\t\\", "\n", {"x": "\0"}, ()),
    Product("a" * 2000, "c" * 2000, {"k": "v" * 20_000}, tuple(map(str, range(500)))),
]


def test_odd_products(store: KeyedStore) -> None:
    assert store.put_products(ODD) == len(ODD)
    assert store.get_products([product.product_id for product in ODD]) == {p.product_id: p for p in ODD}
    store.delete_products([ODD[1].product_id, "%"])
    assert sorted(p.product_id for p in store.scan_products()) == sorted(p.product_id for p in ODD if p is not ODD[1])


def test_deleting(store: KeyedStore, rng: np.random.Generator) -> None:
    put = vectors(rng, 1100, 2)
    for space in ("one", "two"):
        store.put_vectors(space, put.items())
    gone = sorted(put)[:1050]
    store.delete_images([*(item.image_id for item in gone), "unknown"])
    for space in ("one", "two"):
        assert [item for item, _ in store.scan_vectors(space)] == sorted(put)[1050:]
    store.put_products([Product("1", "c", {}, ()), Product("2", "c", {}, ())])
    store.delete_products(["1", "unknown"])
    store.delete_products([])
    store.delete_images([])
    store.delete_vectors("one", [])
    assert [product.product_id for product in store.scan_products()] == ["2"]


def test_marks(store: KeyedStore) -> None:
    assert store.get_mark("never set") is None
    for value in (5, 2**63 - 1, None, "猫", {"a": [1, None, 0.5]}, []):
        store.set_mark("vectors alexnet.fc6@1", value)
        assert store.get_mark("vectors alexnet.fc6@1") == value
    store.set_mark("other", 1)
    assert store.get_mark("vectors alexnet.fc6@1") == []


def test_what_was_put_is_there_after_it_was_closed(uri: str, rng: np.random.Generator) -> None:
    put = vectors(rng, 10)
    first = storage.keyed(uri, create=True)
    first.put_vectors("s", put.items())
    first.put_products(ODD)
    first.set_mark("m", 7)
    first.close()
    first.close()
    second = storage.keyed(uri)
    assert same(dict(second.scan_vectors("s")), put)
    assert second.get_products([""]) == {"": ODD[2]}
    assert second.get_mark("m") == 7
    second.close()


READ = """
import sys
from likeness import storage
store = storage.keyed(sys.argv[1])
print("ready", flush=True)
least = 0
while least < int(sys.argv[2]):
    rows = list(store.scan_vectors("s"))
    assert len(rows) >= least, (len(rows), least)
    assert all((vector == vector[0]).all() and len(vector) == 100 for _, vector in rows)
    assert len(store.get_vectors("s", [item for item, _ in rows])) == len(rows)
    least = len(rows)
store.close()
print(least)
"""


def test_another_process_reads_while_one_writes(store: KeyedStore, uri: str) -> None:
    reader = subprocess.Popen([sys.executable, "-c", READ, uri, "3000"], stdout=subprocess.PIPE, text=True)
    assert reader.stdout
    assert reader.stdout.readline() == "ready\n"
    for number, item in enumerate(photos(3000)):
        if number % 100 == 0:
            batch = []
        batch.append((item, np.full(100, number, np.float32)))
        if number % 100 == 99:
            store.put_vectors("s", batch)
    assert reader.communicate(timeout=60)[0] == "3000\n"
    assert reader.returncode == 0


OPEN = """
import sys
from likeness import storage
print("ready", flush=True)
sys.stdin.readline()
store = storage.keyed(sys.argv[1], create=True)
for _ in range(10):
    store.put_products([storage.Product(f"{sys.argv[2]} {number}", "c", {}, ()) for number in range(100)])
store.set_mark(sys.argv[2], 1)
store.close()
"""


def test_several_processes_open_a_new_store_and_write_at_once(uri: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, uri, str(me)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for me in range(4)
    ]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        process.communicate("\n", timeout=60)
    assert [process.returncode for process in processes] == [0] * 4
    store = storage.keyed(uri)
    assert [store.get_mark(str(me)) for me in range(4)] == [1] * 4
    assert sum(1 for _ in store.scan_products()) == 400
    store.close()


def test_a_writer_waits_for_another(tmp_path: Path) -> None:
    """SQLite alone locks its whole file."""
    store = storage.keyed(sqlite(tmp_path), create=True)
    with closing(sqlite3.connect(sqlite(tmp_path).removeprefix("sqlite://"), check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.rollback)
        release.start()
        begun = time.perf_counter()
        store.set_mark("m", 1)
        assert 0.2 < time.perf_counter() - begun < 10
        release.join()
    assert store.get_mark("m") == 1
    store.close()


def test_threads_read_beside_a_scan(store: KeyedStore, rng: np.random.Generator) -> None:
    put = vectors(rng, 300)
    store.put_vectors("s", put.items())
    scan = store.scan_vectors("s")
    next(scan)
    stored: list[dict[Item, np.ndarray]] = []
    thread = threading.Thread(target=lambda: stored.append(store.get_vectors("s", list(put))))
    thread.start()
    thread.join()
    assert same(stored[0], put)
    assert len(list(scan)) == 299


@pytest.mark.parametrize("kind", UNREACHABLE)
def test_a_store_that_cannot_be_reached(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    uri = UNREACHABLE[kind](tmp_path)
    with pytest.raises(ServiceError, match=r"keyed\.uri") as caught:
        storage.keyed(uri, create=True)
    assert uri in str(caught.value)


def test_a_closed_store_is_a_service_error(uri: str) -> None:
    store = storage.keyed(uri, create=True)
    store.close()
    calls: list[Callable[[], object]] = [
        lambda: store.put_vectors("s", [(A, np.ones(1))]),
        lambda: store.get_vectors("s", [A]),
        lambda: list(store.scan_vectors("s")),
        lambda: store.delete_vectors("s", [A]),
        lambda: store.delete_images(["a"]),
        lambda: store.put_products([ODD[0]]),
        lambda: store.get_products(["a"]),
        lambda: list(store.scan_products()),
        lambda: store.delete_products(["a"]),
        lambda: store.get_mark("a"),
        lambda: store.set_mark("a", 1),
    ]
    for call in calls:
        with pytest.raises(ServiceError):
            call()


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "keyed.sqlite").write_bytes(b"This is no database." * 100)
    with pytest.raises(ServiceError, match="not a database"):
        storage.keyed(f"sqlite://{tmp_path}/keyed.sqlite")


def test_a_store_that_is_damaged_is_a_service_error(tmp_path: Path, rng: np.random.Generator) -> None:
    uri = sqlite(tmp_path)
    store = storage.keyed(uri, create=True)
    store.put_vectors("s", vectors(rng, 200, 100).items())
    store.close()
    path = Path(uri.removeprefix("sqlite://"))
    data = bytearray(path.read_bytes())
    data[8192:] = bytes(b ^ 0x55 for b in data[8192:])
    path.write_bytes(data)
    with pytest.raises(ServiceError, match=str(path)):
        list((store := storage.keyed(uri)).scan_vectors("s"))
    store.close()


def test_a_store_that_was_never_made(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="there is no such file; the load job"):
        storage.keyed(sqlite(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_one_space_are_deleted(store: KeyedStore) -> None:
    for space in ("one", "two"):
        store.put_vectors(space, [(A, np.ones(1)), (B, np.ones(1))])
    store.delete_vectors("one", [A])
    assert [item for item, _ in store.scan_vectors("one")] == [B]
    assert [item for item, _ in store.scan_vectors("two")] == [A, B]


def test_regions_are_kept_beside_their_whole_photo(store: KeyedStore) -> None:
    items = [A, Item("a", "0"), Item("a", "人/x"), Item("a0"), Item("ab", "0"), B]
    for space in ("one", "two"):
        store.put_vectors(space, [(item, np.full(2, number)) for number, item in enumerate(items)])
    assert [(item, vector.tolist()) for item, vector in store.scan_vectors("one")] == [
        (item, [number, number]) for number, item in enumerate(items)
    ]
    stored = store.get_vectors("one", [items[2], A, Item("b", "0")])
    assert {item: vector.tolist() for item, vector in stored.items()} == {A: [0, 0], items[2]: [2, 2]}
    store.delete_vectors("one", [items[1], Item("b", "0")])
    assert [item for item, _ in store.scan_vectors("one")] == [item for item in items if item != items[1]]
    store.delete_images(["a"])
    for space in ("one", "two"):
        assert [item for item, _ in store.scan_vectors(space)] == items[3:]


def test_rows_of_before_regions_are_whole_photos(tmp_path: Path) -> None:
    storage.keyed(sqlite(tmp_path), create=True).close()
    with closing(sqlite3.connect(sqlite(tmp_path).removeprefix("sqlite://"))) as db, db:
        db.execute("INSERT INTO vectors VALUES ('a', 's', ?)", (np.ones(2, "<f4").tobytes(),))
    with closing(storage.keyed(sqlite(tmp_path))) as store:
        assert [item for item, _ in store.scan_vectors("s")] == [A]
        assert store.get_vectors("s", [A])[A].tolist() == [1, 1]


@pytest.mark.parametrize("uri", ["sqlite:relative.sqlite", "sqlite://relative.sqlite", "redis://host", "/a/path"])
def test_a_uri_that_names_no_store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"sqlite:///path"):
        storage.keyed(uri)
    assert list(tmp_path.iterdir()) == []


def test_the_store_of_a_root(tmp_path: Path) -> None:
    assert storage.keyed_uri("", str(tmp_path)) == f"sqlite://{tmp_path}/keyed.sqlite"
    assert storage.keyed_uri("sqlite:///x", str(tmp_path)) == "sqlite:///x"
    with pytest.raises(UsageError, match=r"set keyed\.uri"):
        storage.keyed_uri("", "hdfs://name/root")
