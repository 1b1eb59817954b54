"""Filters of results: whatever a query asks for, its work is bounded, and the answer says where it ended."""

import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.records import shard_record

from likeness import storage
from likeness.index.manifest import Manifest
from likeness.index.shard import Hit
from likeness.serving import keyed_reader
from likeness.serving.keyed_reader import KeyedReader
from likeness.serving.leaf import LeafAnswer, LeafQuery
from likeness.serving.result_filters import AttributeLookup
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.storage import KeyedStore, Product
from likeness.storage.items import Item

IMAGES, DIM, SPACE = 20_000, 16, "s@1"


class Fixed:
    """A leaf with given hits; it notes the most that it was asked for."""

    def __init__(self, hits: list[Hit]) -> None:
        self._hits, self.most = hits, 0

    def search(self, query: LeafQuery) -> LeafAnswer:
        self.most = max(self.most, query.k)
        return LeafAnswer([0], len(self._hits), [self._hits[: query.k]])

    def sample_vectors(self, rows: int, shards: object = None) -> Mapping[str, np.ndarray]:
        return {"c": np.ones((1, DIM), np.float32)}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> KeyedReader:
    """A store of vectors that are all alike, and of products that are all blue."""
    uri = f"sqlite://{tmp_path_factory.mktemp('keyed')}/keyed.sqlite"
    store = storage.keyed(uri, create=True)
    rng = np.random.default_rng(5)
    vectors = rng.normal(1, 0.5, (IMAGES, DIM)).astype(np.float32)
    store.put_vectors(SPACE, ((Item(name(row)), vectors[row]) for row in range(IMAGES)))
    store.put_products(Product(f"p{row}", "c", {"colour": "blue"}, [name(row)]) for row in range(IMAGES))
    store.close()
    return KeyedReader(lambda: storage.keyed(uri), 30)


def name(row: int) -> str:
    return f"{row:064x}"


def searched(keyed: KeyedReader, params: SearchParams) -> tuple[list[str], tuple[str, ...], int, float]:
    """image_ids, what the answer lacks, the most hits asked of the leaf, and the peak of memory in MB."""
    leaf = Fixed([Hit(1 - row / IMAGES, name(row), "c", "file:///x", (f"p{row}",)) for row in range(IMAGES)])
    facts = {"build": "b", "run_id": "r", "created": "", "space": SPACE, "dim": DIM, "kind": "auto", "metric": "cosine"}
    sizes = {"images": IMAGES, "products": IMAGES, "vectors": IMAGES}
    more = {"snapshots": {}, "index_settings": {}, "shards": [shard_record(0, "c", IMAGES)]}
    root = Root(Manifest.model_validate(facts | sizes | more), leaf)
    tracemalloc.start()
    answer = root.search(np.ones(DIM, np.float32), SPACE, params, lookup=AttributeLookup(keyed, SPACE))
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return [one.image_id for one in answer.results], answer.coverage.degraded, leaf.most, peak


def test_near_duplicates_are_compared_with_few(keyed: KeyedReader) -> None:
    images, degraded, most, peak = searched(keyed, SearchParams(10, "all", near_duplicate=0.05))
    assert images == [name(0)]
    assert most <= 4096
    assert "of the 4096 nearest images" in degraded[0]
    assert peak < 30, "4096 x 4096 numbers would take 67 MB"


@pytest.mark.parametrize("params", [{"where": ["colour=red"]}, {"where": ["colour=red"], "distinct": True}])
def test_filters_that_nothing_passes_end(keyed: KeyedReader, params: dict[str, object]) -> None:
    images, degraded, most, _ = searched(keyed, SearchParams(10, "all", **params))  # type: ignore[arg-type]
    assert (images, most) == ([], 16384)
    assert "of the 16384 nearest images" in degraded[0]


class Hanging:
    """A store that answers after so many seconds."""

    def __init__(self, store: KeyedStore) -> None:
        self._store, self.seconds, self.calls, self.embedded = store, 0.0, 0, False

    def get_products(self, product_ids: list[str]) -> dict[str, Product]:
        self.calls += 1
        time.sleep(self.seconds)
        return self._store.get_products(product_ids)


def test_a_store_that_hangs_costs_a_budget_then_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from likeness.core.errors import ServiceError

    monkeypatch.setattr(keyed_reader, "_RETRY_S", 0.5)
    store = storage.keyed(f"sqlite://{tmp_path}/keyed.sqlite", create=True)
    store.put_products([Product(f"p{row}", "c", {}, []) for row in range(100)])
    hanging = Hanging(store)
    reader = KeyedReader(lambda: hanging, 0.1)  # type: ignore[arg-type, return-value]
    assert reader.products(["p0", "none"]).keys() == {"p0"}
    hanging.seconds = 2
    assert reader.products(["p0", "none"]).keys() == {"p0"}, "kept"
    for row in range(1, 4):
        start = time.monotonic()
        with pytest.raises(ServiceError, match="no answer within 100 ms"):
            reader.products([f"p{row}"])
        assert time.monotonic() - start < 0.6
    calls, start = hanging.calls, time.monotonic()
    for row in range(4, 40):
        with pytest.raises(ServiceError, match=r"no answer within 100 ms; it is tried again in \d s"):
            reader.products([f"p{row}"])
    assert (hanging.calls, time.monotonic() - start < 0.4) == (calls, True)
    hanging.seconds = 0
    time.sleep(0.6)
    assert reader.products(["p50"]).keys() == {"p50"}
    assert reader.products(["p51"]).keys() == {"p51"}
