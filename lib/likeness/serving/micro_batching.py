"""Micro-batching: concurrent calls (searches of a leaf, photos through a network) done together.

The first caller runs one batch of all calls that wait by then. So a lone caller waits for nobody, no call is delayed to
fill a batch, and batches grow with the time that the work takes.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from likeness.models.runtimes import Runtime

A = TypeVar("A")
_MAX_ROWS = 64


@dataclass(eq=False)
class _Call(Generic[A]):
    """One caller's rows; rows of equal `key` can go into one batch.

    `woken` is set once there is an answer or an error, or once it is this caller's turn to run a batch.
    """

    rows: np.ndarray
    key: Hashable
    cancelled: Callable[[], bool] | None = None
    answer: A | None = None
    error: Exception | None = None
    woken: threading.Event = field(default_factory=threading.Event)


class MicroBatcher(Generic[A]):
    """Runs one batch after the other: `work(rows, key)` gives an answer, `part(answer, start, stop)` a slice of it."""

    def __init__(self, work: Callable[[np.ndarray, Any], A], part: Callable[[A, int, int], A]) -> None:
        self._work, self._part = work, part
        self._waiting: deque[_Call[A]] = deque()
        self._lock, self._busy = threading.Lock(), False

    def __call__(self, rows: np.ndarray, key: Hashable = None, cancelled: Callable[[], bool] | None = None) -> A:
        """The answer for some rows, (n, ...).

        Raises:
            CancelledError: `cancelled` was true before a batch took the rows.
        """
        call = _Call[A](rows, key, cancelled)
        with self._lock:
            self._waiting.append(call)
            if not self._busy:
                self._busy = True
                call.woken.set()
        call.woken.wait()
        if call.answer is None and not call.error:
            try:
                if batch := self._next_batch():
                    self._run(batch)
            finally:
                self._wake_next()
        if call.error:
            raise call.error
        assert call.answer is not None
        return call.answer

    def _wake_next(self) -> None:
        """Gives the turn to the caller that has waited longest."""
        with self._lock:
            self._busy = bool(self._waiting)
            if self._busy:
                self._waiting[0].woken.set()

    def _next_batch(self) -> list[_Call[A]]:
        """The call that has waited longest, and those that can go with it; cancelled ones are dropped."""
        with self._lock:
            for call in [call for call in self._waiting if call.cancelled and call.cancelled()]:
                self._waiting.remove(call)
                call.error = CancelledError("nobody waits for the answer any more")
                call.woken.set()
            if not self._waiting:
                return []
            first = self._waiting[0]
            batch: list[_Call[A]] = []
            for call in self._waiting:
                if call.key == first.key and sum(len(other.rows) for other in batch) < _MAX_ROWS:
                    batch.append(call)
            for call in batch:
                self._waiting.remove(call)
        return batch

    def _run(self, batch: list[_Call[A]]) -> None:
        try:
            answer = self._work(np.concatenate([call.rows for call in batch]), batch[0].key)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                batch[0].woken.set()
                return
            for call in batch:  # one by one, so that only the call at fault fails
                self._run([call])
            return
        start = 0
        for call in batch:
            call.answer = self._part(answer, start, start + len(call.rows))
            call.woken.set()
            start += len(call.rows)


class BatchedRuntime:
    """A network that takes photos of many callers at once, of each caller one: many of one caller delay no other."""

    max_passes = 1
    busy_s = 0.0

    def __init__(self, runtime: Runtime) -> None:
        self.name = runtime.name
        self._batcher = MicroBatcher[np.ndarray](
            lambda images, _: runtime(images), lambda vectors, start, stop: vectors[start:stop].copy()
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """As the runtime."""
        if len(images) == 1:
            return self._batcher(images)
        return np.concatenate([self._batcher(image[None]) for image in images])
