"""Batches of queries that come at once: a leaf in, the same leaf out, faster for many callers.

Who comes first asks for all that wait by then, so a query alone waits for nobody and nothing is delayed to fill a
batch: the longer the leaf takes, the larger the batches are.
"""

import threading
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from likeness.indexes.search import Hit
from likeness.serving.leaf import LeafAnswer, LeafPort

_MOST = 64


@dataclass(eq=False)
class _Asked:
    """One caller's queries; those of equal `key` can be asked together.

    `woken` is set when there is an answer or an error, or when it is the caller's turn to ask.
    """

    queries: np.ndarray
    key: tuple[int, str, frozenset[str] | None, frozenset[int] | None]
    answer: LeafAnswer | None = None
    error: Exception | None = None
    woken: threading.Event = field(default_factory=threading.Event)


class Batched:
    """A leaf that answers one batch after the other."""

    def __init__(self, leaf: LeafPort) -> None:
        self._leaf = leaf
        self._waiting: deque[_Asked] = deque()
        self._guard, self._busy = threading.Lock(), False

    def search(
        self,
        queries: np.ndarray,
        k: int,
        space: str,
        categories: Collection[str] | None,
        shards: Collection[int] | None = None,
    ) -> LeafAnswer:
        """As the leaf."""
        named = None if categories is None else frozenset(categories)
        mine = _Asked(queries, (k, space, named, None if shards is None else frozenset(shards)))
        with self._guard:
            self._waiting.append(mine)
            if not self._busy:
                self._busy = True
                mine.woken.set()
        mine.woken.wait()
        if not mine.answer and not mine.error:
            try:
                self._ask(self._next())
            finally:
                self._pass_on()
        if mine.error:
            raise mine.error
        assert mine.answer
        return mine.answer

    def _pass_on(self) -> None:
        """Gives the turn to the one who waits longest."""
        with self._guard:
            self._busy = bool(self._waiting)
            if self._busy:
                self._waiting[0].woken.set()

    def samples(self, rows: int, shards: Collection[int] | None = None) -> Mapping[str, np.ndarray]:
        """As the leaf."""
        return self._leaf.samples(rows, shards)

    def shown(self, image_id: str) -> Hit | None:
        """As the leaf."""
        return self._leaf.shown(image_id)

    def some(self, count: int) -> list[Hit]:
        """As the leaf."""
        return self._leaf.some(count)

    def _next(self) -> list[_Asked]:
        """The one who waits longest, and those who can be asked together with it."""
        with self._guard:
            first = self._waiting[0]
            batch: list[_Asked] = []
            for one in self._waiting:
                if one.key == first.key and sum(len(other.queries) for other in batch) < _MOST:
                    batch.append(one)
            for one in batch:
                self._waiting.remove(one)
        return batch

    def _ask(self, batch: list[_Asked]) -> None:
        k, space, categories, shards = batch[0].key
        try:
            found = self._leaf.search(np.concatenate([one.queries for one in batch]), k, space, categories, shards)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                batch[0].woken.set()
                return
            for one in batch:  # whose fault it is
                self._ask([one])
            return
        start = 0
        for one in batch:
            hits = found.hits[start : start + len(one.queries)]
            one.answer = LeafAnswer(found.shards, found.searched, hits)
            one.woken.set()
            start += len(one.queries)
