"""Batches of photo bytes to vectors and failures; a decode pool and a bounded queue inside.

No Spark, no storage: the extraction job and the query encoder both run this.
"""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

import numpy as np

from likeness.backbones import Space, registry
from likeness.images import BadImage, decode, fit
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
        self._pool = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")

    def run(self, photos: Iterable[tuple[str, bytes]]) -> Iterator[Extracted]:
        """Yields a batch as soon as it is full; the order of the photos is kept.

        A photo that fails, takes too long or gives a vector that is not finite is in `failures`.
        """
        pixels = self._how.crop**2 * 3
        ahead = max(2, min(4 * self._settings.batch_size, self._settings.queue_bytes // pixels))
        waiting: deque[_Waiting] = deque()
        images: list[np.ndarray] = []
        batch = Extracted()
        for photo in itertools.chain(photos, itertools.repeat(None)):
            if photo is not None:
                waiting.append(_Waiting(*photo, self._pool.submit(self._prepare, photo[1])))
                if len(waiting) < ahead:
                    continue
            elif not waiting:
                break
            self._take(waiting, batch, images)
            if len(images) == self._settings.batch_size:
                yield self._forward(batch, images)
                batch, images = Extracted(), []
        if images or batch.failures:
            yield self._forward(batch, images)

    def one(self, data: bytes) -> np.ndarray:
        """The vector of one photo, float32 (dim,).

        Raises:
            BadImage: why it has none.
        """
        (batch,) = self.run([("", data)])
        if batch.failures:
            raise batch.failures[0][1]
        vector: np.ndarray = batch.vectors[0]
        return vector

    def _prepare(self, data: bytes) -> np.ndarray:
        return fit(decode(data, self._limits, enough=self._how.resize), self._how)

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
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = ThreadPoolExecutor(self._settings.decode_threads, thread_name_prefix="decode")
        for item in waiting:
            if item.future.cancelled():
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
