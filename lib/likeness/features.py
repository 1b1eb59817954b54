"""Batches of photo bytes to vectors and failures; decoder processes and a bounded queue inside.

No Spark, no storage: the extraction job and the query encoder both run this.
"""

import functools
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from likeness.backbones import Space
from likeness.decoders import Decoders
from likeness.images import WHOLE, BadImage, Box
from likeness.looks import Look, pictures
from likeness.runtimes import Pictures, Runtime, decoding
from likeness.settings import Extract, Limits

Photos = list[np.ndarray] | list[bytes]
"""Those of a batch: decoded, uint8 (side, side, 3), or as they came."""
Clock = defaultdict[str, float]
"""Seconds by what they went into."""


@dataclass
class Extracted:
    """One batch: vectors float32 (n, dim) as the layer gives them, of the photos `keys`, and what failed."""

    keys: list[str] = field(default_factory=list)
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    failures: list[tuple[str, BadImage]] = field(default_factory=list)
    seconds: Clock = field(default_factory=lambda: defaultdict(float))
    """What the caller's time went into since the batch before: `read`, waiting for `decode`, `model`."""


@dataclass
class _Waiting:
    """A photo whose decoding was begun, and the bytes of it."""

    key: str
    size: int
    future: "Future[np.ndarray]"


class Extractor:
    """Turns photos into vectors of one space."""

    def __init__(self, space: Space, runtime: Runtime, settings: Extract, limits: Limits) -> None:
        self._runtime, self._settings = runtime, settings
        self._how = space.preprocessing
        self._pool = Decoders(settings.decode_threads, self._how, limits)
        self._limits = limits

    def run(self, photos: Iterable[tuple[str, bytes]]) -> Iterator[Extracted]:
        """Yields a batch as soon as it is full; the order of the photos is kept.

        A photo that fails, takes too long or gives a vector that is not finite is in `failures`.
        """
        clock = Clock(float)
        read = _timed(photos, clock)
        for batch in self._passes(self._encoded(read) if self._by_network else self._batches(read, clock), clock):
            batch.seconds = clock.copy()
            clock.clear()
            yield batch

    @functools.cached_property
    def _by_network(self) -> Pictures | None:
        """Decodes where the network runs, if the settings say so."""
        if self._settings.decode == "processes":
            return None
        return decoding(self._runtime).decoder(self._limits, self._pool.submit)

    def _encoded(self, photos: Iterable[tuple[str, bytes]]) -> Iterator[tuple[Extracted, list[bytes]]]:
        """Batches without their vectors, and the photos of each as they came."""
        batch, images = Extracted(), list[bytes]()
        for key, data in photos:
            batch.keys.append(key)
            images.append(data)
            if len(images) == self._settings.batch_size or sum(map(len, images)) > self._settings.queue_bytes:
                yield batch, images
                batch, images = Extracted(), []
        if images:
            yield batch, images

    def _batches(
        self, photos: Iterable[tuple[str, bytes]], clock: Clock
    ) -> Iterator[tuple[Extracted, list[np.ndarray]]]:
        """Batches without their vectors, and the decoded photos of each."""
        waiting: deque[_Waiting] = deque()
        batch, images = Extracted(), list[np.ndarray]()
        for _ in self._ahead(photos, waiting):
            with _lap(clock, "decode"):
                self._take(waiting, batch, images)
            if len(images) == self._settings.batch_size:
                yield batch, images
                batch, images = Extracted(), []
        if images or batch.failures:
            yield batch, images

    def _passes(self, batches: Iterable[tuple[Extracted, Photos]], clock: Clock) -> Iterator[Extracted]:
        """The batches with their vectors; as many passes as are worth it are begun while the next batch is gathered."""
        if self._runtime.at_once == 1:
            for batch, images in batches:
                with _lap(clock, "model"):
                    self._forward(batch, images)
                yield batch
            return
        begun = deque[tuple[Extracted, Future[None]]]()

        def first() -> Extracted:
            batch, forward = begun.popleft()
            with _lap(clock, "model"):
                forward.result()
            return batch

        with ThreadPoolExecutor(self._runtime.at_once) as threads:
            for batch, images in batches:
                begun.append((batch, threads.submit(self._forward, batch, images)))
                if len(begun) > self._runtime.at_once:
                    yield first()
            while begun:
                yield first()

    def _ahead(self, photos: Iterable[tuple[str, bytes]], waiting: deque[_Waiting]) -> Iterator[None]:
        """Begins to decode photos, and yields whenever the first of those waiting must be taken."""
        for key, data in photos:
            waiting.append(_Waiting(key, len(data), self._pool.submit(data)))
            while len(waiting) > 1 and self._full(waiting):
                yield
        while waiting:
            yield

    def _full(self, waiting: deque[_Waiting]) -> bool:
        """Four batches, or `queue_bytes` of photos as they came and decoded."""
        held = sum(item.size for item in waiting) + len(waiting) * self._how.side**2 * 3
        return len(waiting) >= 4 * self._settings.batch_size or held > self._settings.queue_bytes

    @property
    def busy_s(self) -> float:
        """Seconds that a GPU has worked so far."""
        return self._runtime.busy_s

    def one(self, data: bytes, box: Box = WHOLE, looks: Collection[Look] = ()) -> np.ndarray:
        """The vectors of one photo, or of the part of it in a box, and of further looks of it, float32 (1 + n, dim).

        Raises:
            BadImage: why it has none.
        """
        batch, images = Extracted(), list[np.ndarray]()
        waiting = deque([_Waiting("", len(data), self._pool.submit(data, box))])
        if Look.WHOLE in looks:
            waiting.append(_Waiting("", len(data), self._pool.submit(data, box, uncut=True)))
        while waiting:
            self._take(waiting, batch, images)
        if images and looks:
            images += pictures(images[0], looks)
            batch.keys = [""] * len(images)
        self._forward(batch, images)
        if batch.failures:
            raise batch.failures[0][1]
        return batch.vectors

    def blank(self) -> np.ndarray:
        """The vector of a black photo, float32 (dim,): a first pass, for which nothing is decoded."""
        vector: np.ndarray = self._runtime(np.zeros((1, self._how.side, self._how.side, 3), np.uint8))[0]
        return vector

    def _take(self, waiting: deque[_Waiting], batch: Extracted, images: list[np.ndarray]) -> None:
        first = waiting.popleft()
        try:
            images.append(first.future.result())
            batch.keys.append(first.key)
        except BadImage as bad:
            batch.failures.append((first.key, bad))

    def _forward(self, batch: Extracted, images: Photos) -> None:
        """Fills in the vectors of a batch."""
        if not images:
            return
        pixels = self._decoded(batch, images) if _as_they_came(images) else np.stack(images)
        if not batch.keys:
            return
        vectors = self._runtime(pixels)
        finite = np.isfinite(vectors).all(axis=1)
        for row in np.flatnonzero(~finite):
            batch.failures.append((batch.keys[row], BadImage("not_finite", "the network gave NaN or infinity")))
        batch.keys = [key for key, good in zip(batch.keys, finite, strict=True) if good]
        batch.vectors = vectors[finite]

    def _decoded(self, batch: Extracted, photos: Sequence[bytes]) -> Any:
        """What the network has decoded; photos that cannot be are failures."""
        assert self._by_network
        pixels, bad = self._by_network(photos)
        batch.failures += [(batch.keys[number], bad[number]) for number in sorted(bad)]
        batch.keys = [key for number, key in enumerate(batch.keys) if number not in bad]
        return pixels


def _as_they_came(photos: Photos) -> TypeGuard[list[bytes]]:
    return isinstance(photos[0], bytes)


@contextmanager
def _lap(clock: Clock, name: str) -> Iterator[None]:
    begun = time.perf_counter()
    try:
        yield
    finally:
        clock[name] += time.perf_counter() - begun


def _timed(photos: Iterable[tuple[str, bytes]], clock: Clock) -> Iterator[tuple[str, bytes]]:
    """The photos; how long the source takes is counted."""
    source = iter(photos)
    while True:
        with _lap(clock, "read"):
            photo = next(source, None)
        if photo is None:
            return
        yield photo
