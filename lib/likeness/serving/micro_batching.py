"""Work that many callers want at once, done together: searches of a leaf, photos through a network.

Who comes first has all done that waits by then, so a caller alone waits for nobody and nothing is delayed to fill a
batch: the longer the work takes, the larger the batches are.
"""

import threading
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from likeness.index.shard import Hit
from likeness.models.runtimes import Runtime
from likeness.serving.leaf import LeafAnswer, LeafPort

A = TypeVar("A")
_MOST = 64


@dataclass(eq=False)
class _Asked(Generic[A]):
    """One caller's rows; those of equal `key` can be done together.

    `woken` is set when there is an answer or an error, or when it is the caller's turn to have it done.
    """

    rows: np.ndarray
    key: Hashable
    answer: A | None = None
    error: Exception | None = None
    woken: threading.Event = field(default_factory=threading.Event)


class MicroBatcher(Generic[A]):
    """Does one batch after the other; `work(rows, key)` gives an answer that `part(answer, start, stop)` divides."""

    def __init__(self, work: Callable[[np.ndarray, Hashable], A], part: Callable[[A, int, int], A]) -> None:
        self._work, self._part = work, part
        self._waiting: deque[_Asked[A]] = deque()
        self._guard, self._busy = threading.Lock(), False

    def __call__(self, rows: np.ndarray, key: Hashable = None) -> A:
        """The answer to some rows, (n, ...)."""
        mine = _Asked[A](rows, key)
        with self._guard:
            self._waiting.append(mine)
            if not self._busy:
                self._busy = True
                mine.woken.set()
        mine.woken.wait()
        if mine.answer is None and not mine.error:
            try:
                self._ask(self._next())
            finally:
                self._pass_on()
        if mine.error:
            raise mine.error
        assert mine.answer is not None
        return mine.answer

    def _pass_on(self) -> None:
        """Gives the turn to the one who waits longest."""
        with self._guard:
            self._busy = bool(self._waiting)
            if self._busy:
                self._waiting[0].woken.set()

    def _next(self) -> list[_Asked[A]]:
        """The one who waits longest, and those who can be asked together with it."""
        with self._guard:
            first = self._waiting[0]
            batch: list[_Asked[A]] = []
            for one in self._waiting:
                if one.key == first.key and sum(len(other.rows) for other in batch) < _MOST:
                    batch.append(one)
            for one in batch:
                self._waiting.remove(one)
        return batch

    def _ask(self, batch: list[_Asked[A]]) -> None:
        try:
            found = self._work(np.concatenate([one.rows for one in batch]), batch[0].key)
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
            one.answer = self._part(found, start, start + len(one.rows))
            one.woken.set()
            start += len(one.rows)


@dataclass(frozen=True)
class _Search:
    """What searches that are made together have in common."""

    k: int
    space: str
    categories: frozenset[str] | None
    shards: frozenset[int] | None


class BatchedLeaf:
    """A leaf that searches for many callers at once."""

    def __init__(self, leaf: LeafPort) -> None:
        self._leaf = leaf
        self._together = MicroBatcher(self._work, self._part)

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
        return self._together(queries, _Search(k, space, named, None if shards is None else frozenset(shards)))

    def samples(self, rows: int, shards: Collection[int] | None = None) -> Mapping[str, np.ndarray]:
        """As the leaf."""
        return self._leaf.samples(rows, shards)

    def shown(self, image_id: str) -> Hit | None:
        """As the leaf."""
        return self._leaf.shown(image_id)

    def some(self, count: int) -> list[Hit]:
        """As the leaf."""
        return self._leaf.some(count)

    def _work(self, queries: np.ndarray, key: Hashable) -> LeafAnswer:
        assert isinstance(key, _Search)
        return self._leaf.search(queries, key.k, key.space, key.categories, key.shards)

    @staticmethod
    def _part(answer: LeafAnswer, start: int, stop: int) -> LeafAnswer:
        return LeafAnswer(answer.shards, answer.searched, answer.hits[start:stop])


class BatchedRuntime:
    """A network that takes the photos of many callers at once."""

    at_once = 1
    busy_s = 0.0

    def __init__(self, runtime: Runtime) -> None:
        self.name = runtime.name
        self._together = MicroBatcher[np.ndarray](
            lambda images, _: runtime(images), lambda vectors, start, stop: vectors[start:stop].copy()
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """As the runtime."""
        return self._together(images)
