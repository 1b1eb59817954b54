"""Leaves: what a query costs with many shards, categories and leaves, and who waits when one of them hangs."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.many_shards import SPACE, publish_many

from likeness.core.settings import Serve
from likeness.index import parallel_search
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.index.shard import LoadedShard, Near
from likeness.serving.category_vote import SAMPLE_ROWS
from likeness.serving.fan_out import FanOut
from likeness.serving.leaf import Leaf, LeafAnswer, LeafQuery, plan_sample
from likeness.serving.leaf_client import LateError, RemoteLeaf
from likeness.serving.leaf_server import LeafServer
from likeness.serving.micro_batching import MicroBatcher
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams

DIM, SHARDS, CATEGORIES, ROWS = 16, 12, 300, 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    publish_many(folder, SHARDS, CATEGORIES, ROWS, DIM)
    return folder


@pytest.fixture(scope="module")
def manifest(root: Path) -> Manifest:
    return Builds(str(root)).find()


def query(rng: np.random.Generator, count: int = 1, **more: Any) -> LeafQuery:
    return LeafQuery(rng.standard_normal((count, DIM), np.float32), 5, SPACE, **more)


# -- categories


class Noted(Leaf):
    """A leaf that notes its queries."""

    def search(self, query: LeafQuery, cancelled: Callable[[], bool] | None = None) -> LeafAnswer:
        self.queries = [*getattr(self, "queries", ()), query]
        return super().search(query)


def test_all_categories_are_not_listed_to_leaves(root: Path, manifest: Manifest, rng: np.random.Generator) -> None:
    leaf = Noted(Builds(str(root)), manifest)
    vector = rng.standard_normal(DIM, np.float32)
    answer = Root(manifest, leaf).search(vector, SPACE, SearchParams(50, "all"))
    Root(manifest, leaf).search(vector, SPACE, SearchParams(5, "category 3"))
    assert [one.categories for one in leaf.queries] == [None, frozenset({"category 3"})]
    assert answer.category.searched == tuple(manifest.categories())
    assert (answer.coverage.shards, answer.coverage.answered) == (SHARDS, SHARDS)
    assert answer.coverage.searched == CATEGORIES * ROWS
    listed = leaf.search(LeafQuery(vector[None], 50, SPACE, frozenset(manifest.categories())))
    assert [(one.image_id, one.products) for one in answer.results] == [
        (hit.image_id, hit.products) for hit in listed.hits[0]
    ]


# -- the sample that predicts categories


@pytest.mark.parametrize("rows", [1, 10, 100, 1000, 4799, 10_000, 10**6])
def test_a_sample_is_bounded_and_even(root: Path, manifest: Manifest, rows: int) -> None:
    samples = Leaf(Builds(str(root)), manifest).sample_vectors(rows)
    sizes = {len(vectors) for vectors in samples.values()}
    assert sum(map(len, samples.values())) <= 4 * rows
    assert len(samples) == min(CATEGORIES, 4 * rows)
    assert sizes == {min(ROWS, max(1, min(4 * rows // CATEGORIES, max(16, rows // CATEGORIES))))}


@pytest.mark.parametrize(("categories", "sampled"), [(10_000, 30_000), (40_000, 32_768), (100, 8100), (3, 3 * 2730)])
def test_a_sample_of_deltas_and_parts_is_as_large_as_one_of_a_whole_build(
    manifest: Manifest, categories: int, sampled: int
) -> None:
    """Every category is in each of nine shards, as after eight nights."""
    counts = {f"c{number}": 1000 + number for number in range(categories)}
    shards = [manifest.shards[0].model_copy(update={"number": number, "categories": counts}) for number in range(9)]
    plan = plan_sample(manifest.model_copy(update={"shards": shards}), SAMPLE_ROWS)
    assert sum(sum(part.values()) for part in plan.values()) == sampled
    assert all(part[name] <= counts[name] for part in plan.values() for name in part)
    chosen = {name for part in plan.values() for name in part}
    assert len(chosen) == min(categories, 4 * SAMPLE_ROWS)
    assert f"c{categories - 1}" in chosen, "the largest"


def test_a_root_whose_sample_is_bounded_lacks_nothing(
    root: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the service would make it anew each second."""
    monkeypatch.setattr("likeness.serving.category_vote.SAMPLE_ROWS", 10)
    builds = Builds(str(root))
    assert Root(manifest, Leaf(builds, manifest)).whole
    assert not Root(manifest, Leaf(builds, manifest, {0})).whole


# -- shards side by side


@pytest.mark.parametrize("count", [1, 7])
def test_shards_are_searched_side_by_side(
    root: Path, manifest: Manifest, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Two searches wait for each other; the answer is the one of a search after the other."""
    builds, several = Builds(str(root)), query(rng, count)
    expected = Leaf(builds, manifest).search(several)
    meet, find, seen = threading.Barrier(2, timeout=30), LoadedShard.find, set[int]()

    def wait_and_find(shard: LoadedShard, *args: Any) -> Near:
        meet.wait()
        seen.add(threading.get_ident())
        return find(shard, *args)

    monkeypatch.setattr(LoadedShard, "find", wait_and_find)
    monkeypatch.setattr(parallel_search, "threads", lambda: 2)
    monkeypatch.setattr(parallel_search, "_MIN_WORK", 0)
    parallel_search._pool.cache_clear()
    try:
        assert Leaf(builds, manifest).search(several) == expected
    finally:
        parallel_search._pool().shutdown()
        parallel_search._pool.cache_clear()
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("vectors", "queries", "threads", "pays"),
    [
        ([10**6] * 4, 1, 2, True),
        ([10**6] * 4, 8, 2, True),
        ([10**6] * 4, 8, 1, False),
        ([10**6], 8, 2, False),
        ([100] * 4, 1, 2, False),
        ([10**6, 10, 10], 8, 2, False),  # FAISS searches the large one on all cores
        ([10**6, 10, 10], 1, 2, True),
    ],
)
def test_threads_are_used_where_they_pay(vectors: list[int], queries: int, threads: int, pays: bool) -> None:
    assert parallel_search._pays(vectors, (queries, 64), threads) == pays


# -- late queries


def test_a_query_that_nobody_waits_for_is_dropped_before_it_begins(rng: np.random.Generator) -> None:
    busy, begun, worked = threading.Event(), threading.Event(), list[int]()

    def work(rows: np.ndarray, key: Any) -> np.ndarray:
        worked.append(len(rows))
        begun.set()
        busy.wait(30)
        return rows

    batcher = MicroBatcher[np.ndarray](work, lambda answer, start, stop: answer[start:stop])
    gone = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batcher, np.zeros((1, 4)))
        begun.wait(30)
        late = [pool.submit(batcher, np.full((1, 4), number), None, gone.is_set) for number in range(3)]
        waits = pool.submit(batcher, np.full((2, 4), 9))
        until(lambda: len(batcher._waiting) == 4)
        gone.set()
        busy.set()
        for future in late:
            with pytest.raises(CancelledError):
                future.result(30)
        assert (first.result(30) == 0).all()
        assert (waits.result(30) == 9).all()
    assert worked == [1, 2]


@contextmanager
def serving(root: Path, count: int) -> Iterator[list[LeafServer]]:
    servers = [LeafServer(Builds(str(root)), "127.0.0.1", 0, report=lambda line: None) for _ in range(count)]
    try:
        yield servers
    finally:
        for server in servers:
            server.shutdown()


def client(server: LeafServer) -> RemoteLeaf:
    return RemoteLeaf(f"127.0.0.1:{server.port}")


def until(true: Callable[[], bool], within_s: float = 30) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_leaf_drops_queries_whose_deadline_has_passed(
    root: Path, manifest: Manifest, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, begun, searched, search = threading.Event(), threading.Event(), list[int](), Leaf._search

    def slow(leaf: Leaf, vectors: np.ndarray, query: LeafQuery) -> LeafAnswer:
        searched.append(query.k)
        begun.set()
        busy.wait(30)
        return search(leaf, vectors, query)

    monkeypatch.setattr(Leaf, "_search", slow)
    with serving(root, 1) as (server,), closing(client(server)) as leaf:
        leaf.prepare(manifest.path, frozenset(range(SHARDS)))
        first = leaf.start(leaf.search, manifest.path, query(rng), 60)
        begun.wait(30)
        for k in (11, 12, 13):
            with pytest.raises(LateError, match="no answer within 100 ms"):
                leaf.search(manifest.path, LeafQuery(np.zeros((1, DIM), np.float32), k, SPACE), 0.1)
        batcher = server._loaded[manifest.path]._batcher
        until(lambda: len(batcher._waiting) == 3 and all(call.cancelled() for call in batcher._waiting))
        busy.set()
        assert first.result(30).searched == CATEGORIES * ROWS
        until(lambda: not batcher._waiting)
        assert leaf.search(manifest.path, query(rng), 60).searched == CATEGORIES * ROWS
    assert searched == [5, 5]


def test_a_leaf_that_hangs_takes_no_threads_from_the_others(
    root: Path, manifest: Manifest, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More queries wait for it than the 128 threads that all leaves shared once."""
    released, searched, search = threading.Event(), list[int](), Leaf._search

    def hang(leaf: Leaf, vectors: np.ndarray, query: LeafQuery) -> LeafAnswer:
        if leaf is hangs._loaded[manifest.path]:
            released.wait(120)
        else:
            searched.append(len(vectors))
        return search(leaf, vectors, query)

    monkeypatch.setattr(Leaf, "_search", hang)
    with serving(root, 2) as (hangs, answers), closing(client(hangs)) as slow, closing(client(answers)) as quick:
        fan_out = FanOut(manifest, [slow, quick], Serve(deadline_ms=120_000), lambda line: None)
        fan_out.prepare()
        assert {place for places in fan_out._places.values() for place in places} == {slow.address, quick.address}
        with ThreadPoolExecutor(160) as pool:
            futures = [pool.submit(fan_out.search, query(rng)) for _ in range(160)]
            try:
                until(lambda: sum(searched) == 160, 60)  # while the other one still hangs
            finally:
                released.set()
            assert all(future.result().shards == list(range(SHARDS)) for future in futures)
