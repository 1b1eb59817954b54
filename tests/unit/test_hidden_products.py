"""Hidden products: out of every answer, whatever they are called, until they are shown again."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.records import shard_record

from likeness.catalog import hidden_products
from likeness.catalog.hidden_products import HiddenProducts
from likeness.index.manifest import Manifest
from likeness.index.shard import Hit
from likeness.serving import hidden_watcher
from likeness.serving.hidden_watcher import HiddenProductsWatcher
from likeness.serving.leaf import LeafAnswer, LeafQuery
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams

NAMES = ["hat-1", "裤子/2.0", "../../etc/passwd", "a b", "", "x" * 3000, "hat-1.json"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_products, "_FRESH_S", 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_hidden_and_shown(tmp_path: Path, name: str) -> None:
    one, other = HiddenProducts(str(tmp_path / "root")), HiddenProducts(str(tmp_path / "root"))
    assert other.without(NAMES) == tuple(NAMES)
    one.hide([name])
    one.hide([name])
    assert [product for product, _ in other.all()] == [name]
    assert other.without(NAMES) == tuple(product for product in NAMES if product != name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == list((tmp_path / "root" / "hidden").iterdir())
    one.show([name, "never hidden"])
    assert other.without(NAMES) == tuple(NAMES)
    assert other.all() == []


def test_what_was_read_is_used_for_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_products, "_FRESH_S", 1.0)
    now = 100.0
    monkeypatch.setattr(hidden_products.time, "monotonic", lambda: now)
    reader = HiddenProducts(str(tmp_path))
    assert reader.without(["a"]) == ("a",)
    HiddenProducts(str(tmp_path)).hide(["a"])
    assert reader.without(["a"]) == ("a",)
    now = 101.0
    assert reader.without(["a"]) == ()


def test_a_folder_that_stays_as_it_is_is_not_listed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(hidden_products.time, "monotonic", lambda: now)
    reader, names = HiddenProducts(str(tmp_path)), [f"p{number}" for number in range(2000)]
    reader.hide(names)
    assert reader.without(["p5", "q"]) == ("q",)
    listed: list[str] = []
    list_names = type(reader._files).names
    monkeypatch.setattr(type(reader._files), "names", lambda *args: listed.append("x") or list_names(*args))
    for now in range(104, 124):  # noqa: B007 - the clock
        assert reader.without(["p5", "q"]) == ("q",)
    assert listed == []
    HiddenProducts(str(tmp_path)).show(["p5"])
    assert reader.without(["p5", "q"]) == ("p5", "q")
    assert len(listed) == 1


def test_the_last_list_stays_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that fails or hangs keeps no query waiting; answers say how old the list is."""
    monkeypatch.setattr(hidden_watcher, "_POLL_S", 0.05)
    monkeypatch.setattr(hidden_watcher, "_STALE_S", 0.3)
    HiddenProducts(str(tmp_path)).hide(["a"])
    said: list[str] = []
    watcher = HiddenProductsWatcher(str(tmp_path), said.append)
    assert "cannot be read" in watcher.unread
    watcher.start()
    try:
        assert (watcher.without(["a", "b"]), watcher.unread, watcher.problem) == (("b",), "", "")

        def fail(self: HiddenProducts) -> None:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as broken:
            broken.setattr(HiddenProductsWatcher, "refresh", fail)
            time.sleep(0.6)
            assert watcher.without(["a", "b"]) == ("b",)
            assert "Too many open files" in watcher.problem
            assert len(said) == 1
        HiddenProducts(str(tmp_path)).hide(["b"])
        end = time.monotonic() + 10
        while watcher.without(["a", "b"]) and time.monotonic() < end:
            time.sleep(0.02)
        assert (watcher.without(["a", "b"]), watcher.problem) == ((), "")
    finally:
        watcher.stop()


class Fixed:
    """A leaf with given hits."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self._hits = hits

    def search(self, query: LeafQuery) -> LeafAnswer:
        return LeafAnswer([0], len(self._hits), [self._hits[: query.k]])

    def sample_vectors(self, rows: int, shards: object = None) -> Mapping[str, np.ndarray]:
        return {"c": np.ones((1, 2), np.float32)}


def manifest(count: int) -> Manifest:
    facts = {"build": "b", "run_id": "r", "created": "", "space": "s@1", "dim": 2, "kind": "auto", "metric": "cosine"}
    sizes = {"images": count, "products": count, "vectors": count}
    return Manifest.model_validate(
        facts | sizes | {"snapshots": {}, "index_settings": {}, "shards": [shard_record(0, "c", count)]}
    )


@given(
    st.lists(st.frozensets(st.sampled_from("abcdefgh"), min_size=1), min_size=1, max_size=30),
    st.frozensets(st.sampled_from("abcdefgh")),
    st.integers(1, 12),
)
def test_answers_are_those_of_a_world_without_the_hidden(
    tmp_path_factory: pytest.TempPathFactory, shows: list[frozenset[str]], hide: frozenset[str], k: int
) -> None:
    root = str(tmp_path_factory.mktemp("root"))
    HiddenProducts(root).hide(hide)
    hits = [
        Hit(1 - row / 100, f"{row:04d}", "c", "file:///x", tuple(sorted(products)))
        for row, products in enumerate(shows)
    ]
    answer = Root(manifest(len(hits)), Fixed(hits), HiddenProducts(root)).search(
        np.ones(2, np.float32), "s@1", SearchParams(k, "all")
    )
    expected = [(hit.image_id, [p for p in hit.products if p not in hide]) for hit in hits]
    expected = [(image, left) for image, left in expected if left][:k]
    assert [(result.image_id, list(result.products)) for result in answer.results] == expected
    assert all(result.product_id == result.products[0] for result in answer.results)
