"""Shards of several categories and with dead rows, and the tombstones themselves, against a scan."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hits import hits_of

from likeness.core.errors import DataError
from likeness.core.settings import Index
from likeness.index import distance, tombstones
from likeness.index.build import BuildSpec, build_shard
from likeness.index.ids import faiss_id
from likeness.index.kinds import KINDS, IndexParams
from likeness.index.shard import LoadedShard
from likeness.index.shard_plan import PlannedShard

NAMES = ("hat", "shoe", "裤子/2.0")
ROWS, DIM = 1500, 48


class BuiltShard:
    """A shard of rows shown in one or two of three categories, by products named after both."""

    def __init__(self, folder: Path, kind: str, metric: str = "cosine") -> None:
        rng = np.random.default_rng(20260102)
        self.ids = sorted(rng.bytes(32).hex() for _ in range(ROWS))
        centres = rng.standard_normal((20, DIM))
        self.vectors = (centres[rng.integers(0, 20, ROWS)] + 0.4 * rng.standard_normal((ROWS, DIM))).astype(np.float32)
        self.names = [sorted(set(rng.choice(NAMES, rng.integers(1, 3), p=[0.6, 0.3, 0.1]))) for _ in range(ROWS)]
        table = pa.table(
            {
                "image_id": self.ids,
                "shown": [
                    [
                        {"category": name, "uri": f"{name} {key}", "products": [f"{name} {key[:5]}", "both"]}
                        for name in names
                    ]
                    for key, names in zip(self.ids, self.names, strict=True)
                ],
                "vector": [row.tobytes() for row in self.vectors],
            }
        )
        settings = Index(kind=kind, metric=metric)
        order = BuildSpec(f"file://{folder}", "b", "s@1", DIM, settings)
        self.folder, self.metric = folder, metric
        self.record = build_shard(PlannedShard(0, NAMES), table.to_batches(200), order)

    def loaded(self, deleted: np.ndarray) -> LoadedShard:
        """The shard without some rows, as a manifest says it."""
        live = np.setdiff1d(np.arange(ROWS), deleted)
        counts = {name: sum(name in self.names[row] for row in live) for name in NAMES}
        update = {"tombstoned": len(deleted), "categories": {name: count for name, count in counts.items() if count}}
        ids = np.sort([faiss_id(self.ids[row]) for row in deleted])
        return LoadedShard(self.record.model_copy(update=update), self.folder, self.metric, ids)

    def best(self, query: np.ndarray, rows: np.ndarray, k: int) -> list[str]:
        """The nearest of some rows."""
        scores = distance.exact_scores(query[None], distance.prepared(self.vectors[rows], self.metric), self.metric)[0]
        return [self.ids[row] for row in rows[np.argsort(-scores)[:k]]]


@pytest.fixture(scope="module", params=sorted(KINDS))
def built(request: Any, tmp_path_factory: pytest.TempPathFactory) -> BuiltShard:
    return BuiltShard(tmp_path_factory.mktemp("shard"), request.param)


def test_what_is_removed_is_never_found_and_nothing_else_is_lost(built: BuiltShard, rng: np.random.Generator) -> None:
    """Rows at random, and all that are near to the queries."""
    queries = distance.prepared(built.vectors[rng.integers(0, ROWS, 40)] + 0.1, built.metric)
    near = [built.ids.index(key) for query in queries[:5] for key in built.best(query, np.arange(ROWS), 20)]
    for deleted in (rng.choice(ROWS, 75, replace=False), np.unique(near), np.arange(ROWS - 30)):
        shard, live = built.loaded(deleted), np.setdiff1d(np.arange(ROWS), deleted)
        assert shard.find(queries, 10).searched == len(live)
        hits = [[hit.image_id for hit in one] for one in hits_of(shard, queries, 10)]
        assert not {built.ids[row] for row in deleted} & {key for one in hits for key in one}
        best = [built.best(query, live, 10) for query in queries]
        share = np.mean([len(set(mine) & set(true)) / 10 for mine, true in zip(hits, best, strict=True)])
        assert share >= (1 if built.record.kind == "flat" else 0.95)


@pytest.mark.parametrize("categories", [("hat",), ("shoe", "裤子/2.0"), ("裤子/2.0",), NAMES])
def test_a_category_is_searched_alone(built: BuiltShard, rng: np.random.Generator, categories: tuple[str, ...]) -> None:
    deleted = rng.choice(ROWS, 75, replace=False)
    shard = built.loaded(deleted)
    rows = np.array([row for row in np.setdiff1d(np.arange(ROWS), deleted) if set(categories) & set(built.names[row])])
    queries = distance.prepared(built.vectors[rng.integers(0, ROWS, 30)] + 0.1, built.metric)
    among = [*categories, "no such category"]
    assert shard.find(queries, 10, among).searched == len(rows)
    good = 0
    for query, hits in zip(queries, hits_of(shard, queries, 10, among), strict=True):
        good += len({hit.image_id for hit in hits} & set(built.best(query, rows, 10)))
        for hit in hits:
            mine = [name for name in built.names[built.ids.index(hit.image_id)] if name in categories]
            assert (hit.category, hit.uri) == (mine[0], f"{mine[0]} {hit.image_id}")
            assert set(hit.products) == {"both", *(f"{name} {hit.image_id[:5]}" for name in mine)}
    assert good / 300 >= (1 if built.record.kind == "flat" else 0.95)


def test_a_sample_is_of_living_rows_of_its_category(built: BuiltShard, rng: np.random.Generator) -> None:
    deleted = rng.choice(ROWS, 500, replace=False)
    samples = built.loaded(deleted).sample_vectors(dict.fromkeys(NAMES, 20))
    places = {
        row.astype(np.float16).tobytes(): number
        for number, row in enumerate(distance.prepared(built.vectors, "cosine"))
    }
    for name, vectors in samples.items():
        rows = [places[row.astype(np.float16).tobytes()] for row in vectors]
        assert len(rows) == min(20, sum(name in built.names[row] for row in np.setdiff1d(np.arange(ROWS), deleted)))
        assert not set(rows) & set(deleted)
        assert all(name in built.names[row] for row in rows)


def test_tombstones_that_a_shard_does_not_hold_are_refused(built: BuiltShard) -> None:
    record = built.record.model_copy(update={"tombstoned": 1})
    with pytest.raises(DataError, match=r"0 tombstoned, the manifest says 1500 and 1"):
        LoadedShard(record, built.folder, built.metric, np.array([12345]))


def test_an_index_that_filters_badly_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recall without a filter is 1; with one it is not, and the lowest is what the gate reads."""
    good = BuiltShard(tmp_path / "good", "hnsw").record
    assert set(good.filtered) == {"0.5", "0.05", "0.005"}
    assert good.lowest >= 0.95
    monkeypatch.setattr("likeness.index.searcher._SCANNED", 0)  # never scans
    monkeypatch.setattr("likeness.index.searcher._RARE", 0)
    lists = KINDS["ivf_rabitq"]

    def turned(params: IndexParams, k: int, selector: Any) -> Any:
        return lists.search_parameters({**params, "nprobe": 1} if selector else params, k, selector)

    monkeypatch.setitem(KINDS, "ivf_rabitq", dataclasses.replace(lists, search_parameters=turned))
    poor = BuiltShard(tmp_path / "poor", "ivf_rabitq").record
    assert poor.lowest == min(poor.recall.value, *poor.filtered.values())
    assert poor.filtered["0.005"] < poor.recall.value
    assert BuiltShard(tmp_path / "exact", "flat").record.filtered == {}


@given(st.dictionaries(st.integers(0, 99), st.sets(st.integers(0, 2**63 - 1), min_size=1, max_size=20), min_size=1))
def test_tombstones_come_back(removed: dict[int, set[int]]) -> None:
    arrays = {number: np.array(list(ids), np.int64) for number, ids in removed.items()}
    parsed = tombstones.parse(tombstones.dump(arrays), "file")
    assert {number: ids.tolist() for number, ids in parsed.items()} == {n: sorted(ids) for n, ids in removed.items()}


@pytest.mark.parametrize("data", [b"", b"x" * 100, tombstones.dump({1: np.array([5])})[:-20]])
def test_damaged_tombstones_are_told(data: bytes) -> None:
    with pytest.raises(DataError, match=r"removed\.arrow holds no tombstones.*likeness verify"):
        tombstones.parse(data, "removed.arrow")
