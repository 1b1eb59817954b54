"""Batches of photo bytes to vectors and failures; decoder processes and a bounded queue inside.

No Spark, no storage: the extraction job and the query encoder both run this.
"""

import functools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from likeness.core.settings import Extract, Limits
from likeness.images.decoder_pool import DecoderPool
from likeness.images.image import WHOLE, BadImage, Box
from likeness.images.query_views import QueryView, render_views
from likeness.models.backbones import Space
from likeness.models.runtimes import Pictures, Runtime, decoding

Gather = Callable[[], Any]
"""Gives what the runtime takes of a batch, (n, side, side, 3)."""
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
    """A photo whose decoding was begun, the bytes of it, and to which of the decoders' rows its pixels go."""

    key: str
    size: int
    future: "Future[np.ndarray]"
    row: int = 0


class Extractor:
    """Turns photos into vectors of one space; one `run` at a time."""

    def __init__(self, space: Space, runtime: Runtime, settings: Extract, limits: Limits) -> None:
        self._runtime, self._settings = runtime, settings
        self._how = space.preprocessing
        self._limits = limits
        # rows for all photos that are on their way, used again: fresh memory would cost a page fault for each 4 KB
        batches = -(-self._most // settings.batch_size) + runtime.at_once + 2
        self._pool = DecoderPool(settings.decode_threads, self._how, limits, batches * settings.batch_size)
        self._running = threading.Lock()

    def run(self, photos: Iterable[tuple[str, bytes]]) -> Generator[Extracted]:
        """Yields a batch as soon as it is full; the order of the photos is kept.

        A photo that fails, takes too long or gives a vector that is not finite is in `failures`.

        Raises:
            RuntimeError: another run is not over yet.
        """
        clock = Clock(float)
        read = _timed(photos, clock)
        with self._alone():  # as long as passes read from the rows
            if self._settings.decode == "network":
                batches = self._encoded(read, decoding(self._runtime).decoder(self._limits, self._pool.submit))
            else:
                batches = self._batches(read, clock)
            with closing(batches), closing(self._passes(batches, clock)) as passes:
                for batch in passes:
                    batch.seconds = clock.copy()
                    clock.clear()
                    yield batch

    def _encoded(self, photos: Iterable[tuple[str, bytes]], decode: Pictures) -> Generator[tuple[Extracted, Gather]]:
        """Batches without their vectors, whose photos are yet to be decoded."""
        batch, images, held = Extracted(), list[bytes](), 0
        for key, data in photos:
            batch.keys.append(key)
            images.append(data)
            held += len(data)
            if len(images) == self._settings.batch_size or held > self._settings.queue_bytes:
                yield batch, functools.partial(_decoded, batch, images, decode)
                batch, images, held = Extracted(), [], 0
        if images:
            yield batch, functools.partial(_decoded, batch, images, decode)

    def _batches(self, photos: Iterable[tuple[str, bytes]], clock: Clock) -> Generator[tuple[Extracted, Gather]]:
        """Batches without their vectors, whose photos are decoded."""
        waiting, every = deque[_Waiting](), self._pool.rows
        batch, rows = Extracted(), list[int]()
        try:
            for _ in self._ahead(photos, waiting):
                first = waiting.popleft()
                with _lap(clock, "decode"):
                    rows += [first.row] if _taken(first, batch) is not None else []
                if first.row % self._settings.batch_size == self._settings.batch_size - 1:
                    yield batch, functools.partial(_rows, every, rows)
                    batch, rows = Extracted(), []
            if rows or batch.failures:
                yield batch, functools.partial(_rows, every, rows)
        finally:  # nothing may come into the rows any more
            for one in waiting:
                one.future.cancel()
            wait([one.future for one in waiting])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._running.acquire(blocking=False):
            raise RuntimeError("an extractor is asked for a run while another is not over")
        try:
            yield
        finally:
            self._running.release()

    def _passes(self, batches: Iterable[tuple[Extracted, Gather]], clock: Clock) -> Generator[Extracted]:
        """The batches with their vectors; as many passes as are worth it are begun while the next batch is gathered."""
        if self._runtime.at_once == 1:
            for batch, gather in batches:
                with _lap(clock, "model"):
                    self._forward(batch, gather)
                yield batch
            return
        begun = deque[tuple[Extracted, Future[None]]]()

        def first() -> Extracted:
            batch, forward = begun.popleft()
            with _lap(clock, "model"):
                forward.result()
            return batch

        with ThreadPoolExecutor(self._runtime.at_once) as threads:
            for batch, gather in batches:
                begun.append((batch, threads.submit(self._forward, batch, gather)))
                if len(begun) > self._runtime.at_once:
                    yield first()
            while begun:
                yield first()

    def _ahead(self, photos: Iterable[tuple[str, bytes]], waiting: deque[_Waiting]) -> Iterator[None]:
        """Begins to decode photos, and yields whenever the first of those waiting must be taken."""
        for number, (key, data) in enumerate(photos):
            row = number % len(self._pool.rows)
            waiting.append(_Waiting(key, len(data), self._pool.submit(data, row=row), row))
            while len(waiting) > 1 and self._full(waiting):
                yield
        while waiting:
            yield

    @property
    def _most(self) -> int:
        """Photos that wait, decoded, at most: four batches, or `queue_bytes`."""
        return max(1, min(4 * self._settings.batch_size, self._settings.queue_bytes // (self._how.side**2 * 3)))

    def _full(self, waiting: deque[_Waiting]) -> bool:
        """As many as may wait, or `queue_bytes` of photos as they came and decoded."""
        held = sum(item.size for item in waiting) + len(waiting) * self._how.side**2 * 3
        return len(waiting) >= self._most or held > self._settings.queue_bytes

    @property
    def busy_s(self) -> float:
        """Seconds that a GPU has worked so far."""
        return self._runtime.busy_s

    def one(self, data: bytes, box: Box = WHOLE, looks: Collection[QueryView] = ()) -> np.ndarray:
        """The vectors of one photo, or of the part of it in a box, and of further looks of it, float32 (1 + n, dim).

        Raises:
            BadImage: why it has none.
        """
        batch, images = Extracted(), list[np.ndarray]()
        waiting = [_Waiting("", len(data), self._pool.submit(data, box))]
        if QueryView.WHOLE in looks:
            waiting.append(_Waiting("", len(data), self._pool.submit(data, box, uncut=True)))
        for one in waiting:
            pixels = _taken(one, batch)
            images += [] if pixels is None else [pixels]
        if images and looks:
            images += render_views(images[0], looks)
            batch.keys = [""] * len(images)
        self._forward(batch, functools.partial(np.stack, images))
        if batch.failures:
            raise batch.failures[0][1]
        return batch.vectors

    def blank(self) -> np.ndarray:
        """The vector of a black photo, float32 (dim,): a first pass, for which nothing is decoded."""
        vector: np.ndarray = self._runtime(np.zeros((1, self._how.side, self._how.side, 3), np.uint8))[0]
        return vector

    def _forward(self, batch: Extracted, gather: Gather) -> None:
        """Fills in the vectors of a batch."""
        if not batch.keys:
            return
        pixels = gather()
        if not batch.keys:  # for none could be decoded
            return
        vectors = self._runtime(pixels)
        finite = np.isfinite(vectors).all(axis=1)
        for row in np.flatnonzero(~finite):
            batch.failures.append((batch.keys[row], BadImage("not_finite", "the network gave NaN or infinity")))
        batch.keys = [key for key, good in zip(batch.keys, finite, strict=True) if good]
        batch.vectors = vectors if finite.all() else vectors[finite]


def _taken(waiting: _Waiting, batch: Extracted) -> np.ndarray | None:
    """The pixels of a photo that a batch gets, or None and it gets the reason why there are none."""
    try:
        pixels = waiting.future.result()
    except BadImage as bad:
        batch.failures.append((waiting.key, bad))
        return None
    batch.keys.append(waiting.key)
    return pixels


def _rows(every: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Rows in rising order; without a copy where none is missing between them."""
    whole = every[rows[0] : rows[-1] + 1]
    return whole if len(whole) == len(rows) else every[rows]


def _decoded(batch: Extracted, photos: Sequence[bytes], decode: Pictures) -> Any:
    """What the network has decoded; photos that cannot be are failures."""
    pixels, bad = decode(photos)
    batch.failures += [(batch.keys[number], bad[number]) for number in sorted(bad)]
    batch.keys = [key for number, key in enumerate(batch.keys) if number not in bad]
    return pixels


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
