"""Batches of queries that come at once, against a leaf that answers them one by one."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from likeness.core.errors import DataError
from likeness.index.shard import Hit
from likeness.serving.leaf import LeafAnswer, LeafQuery
from likeness.serving.micro_batching import BatchedRuntime, MicroBatcher


class Slow:
    """A leaf whose hits are named after the query; a batch takes as long as a query. Negative queries fail."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.most, self._at_work = 0, 0

    def search(self, query: LeafQuery) -> LeafAnswer:
        queries = query.vectors
        self._at_work += 1
        self.most = max(self.most, self._at_work)
        self.batches.append(len(queries))
        time.sleep(0.02)
        self._at_work -= 1
        if (queries < 0).any():
            raise DataError(f"no answer to {queries.min():.0f}")
        names = ",".join(sorted(query.categories or ()))
        hits = [
            [Hit(float(number), f"{value:.0f}", names, query.space, ()) for number in range(query.k)]
            for value in queries[:, 0]
        ]
        return LeafAnswer([0], len(queries), hits)


def batcher(leaf: Slow) -> MicroBatcher[LeafAnswer]:
    return MicroBatcher(lambda vectors, query: leaf.search(replace(query, vectors=vectors)), LeafAnswer.part)


def test_each_gets_its_own_answer_and_few_batches_are_asked() -> None:
    leaf = Slow()
    batched = batcher(leaf)

    def ask(number: int) -> None:
        size, k, categories = 1 + number % 3, 1 + number % 2, [None, ("hat",), ("hat", "shoe")][number % 3]
        queries = np.full((size, 2), number, np.float32)
        answer = batched(queries, LeafQuery(queries, k, "s@1", categories and frozenset(categories)))
        assert len(answer.hits) == size
        for hits in answer.hits:
            assert [(hit.image_id, hit.category) for hit in hits] == [(str(number), ",".join(categories or ()))] * k

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(200)))
    assert sum(leaf.batches) == sum(1 + number % 3 for number in range(200))
    assert len(leaf.batches) < 100
    assert max(leaf.batches) <= 64 + 3
    assert leaf.most == 1
    assert not batched._waiting


def test_a_query_alone_is_asked_at_once() -> None:
    leaf, query = Slow(), LeafQuery(np.zeros((1, 2), np.float32), 1, "s@1")
    begun = time.perf_counter()
    batcher(leaf)(query.vectors, query)
    assert time.perf_counter() - begun < 0.1
    assert leaf.batches == [1]


def test_an_error_is_of_the_one_whose_query_it_was() -> None:
    leaf, together = Slow(), threading.Barrier(9)
    batched = batcher(leaf)

    def ask(number: int) -> str:
        together.wait()
        query = LeafQuery(np.full((1, 2), number, np.float32), 1, "s@1")
        return batched(query.vectors, query).hits[0][0].image_id

    with ThreadPoolExecutor(9) as pool:
        futures = {number: pool.submit(ask, number) for number in (-1, *range(1, 9))}
        for number in range(1, 9):
            assert futures[number].result() == str(number)
        with pytest.raises(DataError, match="no answer to -1"):
            futures[-1].result()


def test_photos_go_through_a_network_together() -> None:
    """Each caller gets the vectors of its own photos."""
    batches: list[int] = []

    class Network:
        name = "sums"

        def __call__(self, images: np.ndarray) -> np.ndarray:
            batches.append(len(images))
            time.sleep(0.02)
            return images.sum(axis=(1, 2, 3), dtype=np.float32)[:, None]

    runtime = BatchedRuntime(Network())

    def ask(number: int) -> None:
        images = np.full((1 + number % 3, 2, 2, 3), number, np.uint8)
        assert np.array_equal(runtime(images), np.full((len(images), 1), 12 * number, np.float32))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(100)))
    assert sum(batches) == sum(1 + number % 3 for number in range(100))
    assert len(batches) < 50
