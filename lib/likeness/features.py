"""Batches of photo bytes to vectors and failures; a decode pool and a bounded queue inside.

No Spark, no storage: the extraction job and the query encoder both run this.
"""

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from likeness.backbones import Space, registry
from likeness.images import WHOLE, BadImage, Box, cut, decode, fit
from likeness.runtimes import Runtime
from likeness.settings import Extract, Limits


@dataclass
class Extracted:
    """One batch: vectors float32 (n, dim) as the layer gives them, of the photos `keys`, and what failed."""

    keys: list[str] = field(default_factory=list)
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    failures: list[tuple[str, BadImage]] = field(default_factory=list)


@dataclass
class _Waiting:
    """A photo whose decoding was begun."""

    key: str
    data: bytes
    future: "Future[np.ndarray]"


class Extractor:
    """Turns photos into vectors of one space."""

    def __init__(self, space: Space, runtime: Runtime, settings: Extract, limits: Limits) -> None:
        self._space, self._runtime, self._settings, self._limits = space, runtime, settings, limits
        self._how = registry()[space.backbone].preprocessing
        self._pool = _Pool(settings.decode_threads)

    def run(self, photos: Iterable[tuple[str, bytes]]) -> Iterator[Extracted]:
        """Yields a batch as soon as it is full; the order of the photos is kept.

        A photo that fails, takes too long or gives a vector that is not finite is in `failures`.
        """
        waiting: deque[_Waiting] = deque()
        images: list[np.ndarray] = []
        batch = Extracted()
        for _ in self._ahead(photos, waiting):
            self._take(waiting, batch, images)
            if len(images) == self._settings.batch_size:
                yield self._forward(batch, images)
                batch, images = Extracted(), []
        if images or batch.failures:
            yield self._forward(batch, images)

    def _ahead(self, photos: Iterable[tuple[str, bytes]], waiting: deque[_Waiting]) -> Iterator[None]:
        """Begins to decode photos, and yields whenever the first of those waiting must be taken."""
        for key, data in photos:
            waiting.append(_Waiting(key, data, self._pool.submit(self._prepare, data)))
            while len(waiting) > 1 and self._full(waiting):
                yield
        while waiting:
            yield

    def _full(self, waiting: deque[_Waiting]) -> bool:
        """Four batches, or `queue_bytes` of photos as they came and decoded."""
        held = sum(len(item.data) for item in waiting) + len(waiting) * self._how.crop**2 * 3
        return len(waiting) >= 4 * self._settings.batch_size or held > self._settings.queue_bytes

    def one(self, data: bytes, box: Box = WHOLE) -> np.ndarray:
        """The vector of one photo, or of the part of it in a box, float32 (dim,).

        Raises:
            BadImage: why it has none.
        """
        batch, images = Extracted(), list[np.ndarray]()
        future = self._pool.submit(lambda given: self._prepare(given, box), data)
        self._take(deque([_Waiting("", data, future)]), batch, images)
        batch = self._forward(batch, images)
        if batch.failures:
            raise batch.failures[0][1]
        vector: np.ndarray = batch.vectors[0]
        return vector

    def blank(self) -> np.ndarray:
        """The vector of a black photo, float32 (dim,): a first pass, for which nothing is decoded."""
        vector: np.ndarray = self._runtime(np.zeros((1, self._how.crop, self._how.crop, 3), np.uint8))[0]
        return vector

    def _prepare(self, data: bytes, box: Box = WHOLE) -> np.ndarray:
        share = min(box[2] - box[0], box[3] - box[1])
        enough = math.ceil(self._how.resize / share) if share > 0 else 0
        return fit(cut(decode(data, self._limits, enough), box), self._how)

    def _take(self, waiting: deque[_Waiting], batch: Extracted, images: list[np.ndarray]) -> None:
        first = waiting.popleft()
        try:
            images.append(first.future.result(timeout=self._limits.decode_timeout_s))
            batch.keys.append(first.key)
        except BadImage as bad:
            batch.failures.append((first.key, bad))
        except FutureTimeout:
            batch.failures.append((first.key, BadImage("decode_timeout", f"over {self._limits.decode_timeout_s} s")))
            self._renew_pool(waiting)

    def _renew_pool(self, waiting: deque[_Waiting]) -> None:
        """A thread cannot be killed: leaves the stuck one behind and gives the others' work to new ones."""
        self._pool = _Pool(self._settings.decode_threads)
        for item in waiting:
            if item.future.cancel():
                item.future = self._pool.submit(self._prepare, item.data)

    def _forward(self, batch: Extracted, images: list[np.ndarray]) -> Extracted:
        if not images:
            return batch
        vectors = self._runtime(np.stack(images))
        finite = np.isfinite(vectors).all(axis=1)
        for row in np.flatnonzero(~finite):
            batch.failures.append((batch.keys[row], BadImage("not_finite", "the network gave NaN or infinity")))
        batch.keys = [key for key, good in zip(batch.keys, finite, strict=True) if good]
        batch.vectors = vectors[finite]
        return batch


@dataclass
class _Job:
    """One call that a thread of the pool makes."""

    call: Callable[[bytes], np.ndarray]
    data: bytes
    future: "Future[np.ndarray]" = field(default_factory=Future)

    def run(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self.call(self.data))
            except BaseException as error:  # the one who waits for it gets it
                self.future.set_exception(error)


class _Pool:
    """Decoder threads that end with the pool; one that is stuck does not keep the process from ending.

    concurrent.futures' own threads would: they are joined at exit.
    """

    def __init__(self, threads: int) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=_work, args=(self._jobs,), name="decode", daemon=True).start()
        weakref.finalize(self, _end, self._jobs, threads)

    def submit(self, call: Callable[[bytes], np.ndarray], data: bytes) -> "Future[np.ndarray]":
        job = _Job(call, data)
        self._jobs.put(job)
        return job.future


def _work(jobs: "SimpleQueue[_Job | None]") -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # it would keep the pool alive while the thread waits


def _end(jobs: "SimpleQueue[_Job | None]", threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)
