"""Feature extraction: encoded photos in, batches of vectors and failures out; decoders and the network overlap.

No Spark, no storage: the extraction job and the query encoder both run it.
"""

import functools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from likeness.core.settings import Extract, Limits
from likeness.images.decoder_pool import DecoderPool
from likeness.images.image import WHOLE, BadImage, Box
from likeness.images.query_views import QueryView, render_views
from likeness.models.backbones import Space
from likeness.models.extracted_batch import ExtractedBatch, Photos, Timings, timed, timed_source
from likeness.models.runtimes import BatchDecoder, Runtime, require_decoding

_NICE = 10
"""By how much the decoder of costly photos yields to all else: it gets a tenth of what a process of nice 0 gets."""
PixelLoader = Callable[[], Any]
"""Returns the pixels of a batch as the runtime takes them, (n, side, side, 3)."""
PendingBatch = tuple[ExtractedBatch, PixelLoader]
"""A batch without vectors, and how to load its pixels."""


@dataclass
class _PendingPhoto:
    """A photo that is being decoded: its key, its encoded bytes, the future pixels and their row in the pool."""

    key: str
    size: int
    pixels: "Future[np.ndarray]"
    row: int = 0


class Extractor:
    """Extracts the vectors of photos in one space; one `run` at a time."""

    def __init__(self, space: Space, runtime: Runtime, settings: Extract, limits: Limits) -> None:
        self._runtime, self._settings, self._limits = runtime, settings, limits
        self._side = space.preprocessing.side
        # rows for all photos in flight, reused: fresh memory would cost a page fault for each 4 KB
        batches = -(-self._max_pending // settings.batch_size) + runtime.max_passes + 2
        self._pool = DecoderPool(settings.decode_threads, space.preprocessing, limits, batches * settings.batch_size)
        self._preprocessing = space.preprocessing
        self._running = threading.Lock()

    def run(self, photos: Photos) -> Generator[ExtractedBatch]:
        """Yields batches as they are full, in the order of the photos.

        A photo that cannot be decoded, takes too long or gives a vector with NaN or infinity is in `failures`.

        Args:
            photos: keys and encoded photos.

        Raises:
            RuntimeError: another run is not finished.
        """
        timings = Timings(float)
        timed_photos = timed_source(photos, timings)
        with self._exclusive():  # as long as forward passes read from the pool's rows
            if self._settings.decode == "network":
                decode = require_decoding(self._runtime).decoder(self._limits, self._pool.submit)
                batches = self._encoded_batches(timed_photos, decode)
            else:
                batches = self._decoded_batches(timed_photos, timings)
            with closing(batches), closing(self._forward_all(batches, timings)) as extracted:
                for batch in extracted:
                    batch.seconds = timings.copy()
                    timings.clear()
                    yield batch

    def _encoded_batches(self, photos: Photos, decode: BatchDecoder) -> Generator[PendingBatch]:
        """Groups photos into batches that the runtime will decode."""
        batch, images, size = ExtractedBatch(), list[bytes](), 0
        for key, data in photos:
            batch.keys.append(key)
            images.append(data)
            size += len(data)
            if len(images) == self._settings.batch_size or size > self._settings.queue_bytes:
                yield batch, functools.partial(_decode_batch, batch, images, decode)
                batch, images, size = ExtractedBatch(), [], 0
        if images:
            yield batch, functools.partial(_decode_batch, batch, images, decode)

    def _decoded_batches(self, photos: Photos, timings: Timings) -> Generator[PendingBatch]:
        """Decodes photos in the pool, and groups them into batches."""
        pending, pixels = deque[_PendingPhoto](), self._pool.rows
        batch, rows = ExtractedBatch(), list[int]()
        try:
            for _ in self._decode_ahead(photos, pending):
                first = pending.popleft()
                with timed(timings, "decode"):
                    rows += [first.row] if _add_to_batch(first, batch) is not None else []
                if first.row % self._settings.batch_size == self._settings.batch_size - 1:
                    yield batch, functools.partial(_take_rows, pixels, rows)
                    batch, rows = ExtractedBatch(), []
            if rows or batch.failures:
                yield batch, functools.partial(_take_rows, pixels, rows)
        finally:  # no decoder may write to the rows after this
            for photo in pending:
                photo.pixels.cancel()
            wait([photo.pixels for photo in pending])

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._running.acquire(blocking=False):
            raise RuntimeError("an extractor was started while another run of it is not over")
        try:
            yield
        finally:
            self._running.release()

    def _forward_all(self, batches: Iterable[PendingBatch], timings: Timings) -> Generator[ExtractedBatch]:
        """Fills in the vectors of batches; up to `max_passes` forward passes run while the next batch is decoded."""
        if self._runtime.max_passes == 1:
            for batch, load in batches:
                with timed(timings, "model"):
                    self._forward(batch, load)
                yield batch
            return
        started = deque[tuple[ExtractedBatch, Future[None]]]()

        def finish_first() -> ExtractedBatch:
            batch, forward = started.popleft()
            with timed(timings, "model"):
                forward.result()
            return batch

        with ThreadPoolExecutor(self._runtime.max_passes) as threads:
            for batch, load in batches:
                started.append((batch, threads.submit(self._forward, batch, load)))
                if len(started) > self._runtime.max_passes:
                    yield finish_first()
            while started:
                yield finish_first()

    def _decode_ahead(self, photos: Photos, pending: deque[_PendingPhoto]) -> Iterator[None]:
        """Starts to decode photos; yields whenever the caller must take the first of `pending`."""
        for number, (key, data) in enumerate(photos):
            row = number % len(self._pool.rows)
            pending.append(_PendingPhoto(key, len(data), self._pool.submit(data, row=row), row))
            while len(pending) > 1 and self._is_full(pending):
                yield
        while pending:
            yield

    @property
    def _max_pending(self) -> int:
        """Most decoded photos that may wait: four batches, or `queue_bytes`."""
        return max(1, min(4 * self._settings.batch_size, self._settings.queue_bytes // (self._side**2 * 3)))

    def _is_full(self, pending: deque[_PendingPhoto]) -> bool:
        """Whether the photos in flight, encoded and decoded, reach a limit."""
        size = sum(photo.size for photo in pending) + len(pending) * self._side**2 * 3
        return len(pending) >= self._max_pending or size > self._settings.queue_bytes

    @property
    def busy_s(self) -> float:
        """Seconds that the GPU has been busy so far; 0 on CPUs."""
        return self._runtime.busy_s

    @functools.cached_property
    def _yielding_pool(self) -> DecoderPool:
        """One decoder that takes what others leave of the processor."""
        return DecoderPool(1, self._preprocessing, self._limits, nice=_NICE)

    def extract_one(
        self,
        data: bytes,
        box: Box = WHOLE,
        views: Collection[QueryView] = (),
        until: float = math.inf,
        costly: bool = False,
    ) -> np.ndarray:
        """Extracts the vectors of one photo, or of its part in a box, and of its query views, float32 (1 + n, dim).

        Args:
            data: the encoded photo.
            box: the part to extract from.
            views: further views to extract.
            until: time of the monotonic clock by which it must be decoded.
            costly: it is decoded after other costly photos, and yields the processor to those that are not.

        Raises:
            BadImage: it cannot be used.
            TimeoutError: it was not decoded in time.
        """
        batch, images = ExtractedBatch(), list[np.ndarray]()
        pool = self._yielding_pool if costly else self._pool
        pending = [_PendingPhoto("", len(data), pool.submit(data, box))]
        if QueryView.WHOLE in views:
            pending.append(_PendingPhoto("", len(data), pool.submit(data, box, squash=True)))
        _await_decoded(pending, until)
        for photo in pending:
            pixels = _add_to_batch(photo, batch)
            images += [] if pixels is None else [pixels]
        if images and views:
            images += render_views(images[0], views)
            batch.keys = [""] * len(images)
        self._forward(batch, functools.partial(np.stack, images))
        if batch.failures:
            raise batch.failures[0][1]
        return batch.vectors

    def warm_up(self) -> np.ndarray:
        """Runs a first forward pass, on a black photo, without decoding; returns its vector, float32 (dim,)."""
        vector: np.ndarray = self._runtime(np.zeros((1, self._side, self._side, 3), np.uint8))[0]
        return vector

    def _forward(self, batch: ExtractedBatch, load: PixelLoader) -> None:
        """Fills in the vectors of a batch."""
        if not batch.keys:
            return
        pixels = load()
        if not batch.keys:  # none could be decoded
            return
        vectors = self._runtime(pixels)
        finite = np.isfinite(vectors).all(axis=1)
        for row in np.flatnonzero(~finite):
            batch.failures.append((batch.keys[row], BadImage("not_finite", "the network gave NaN or infinity")))
        batch.keys = [key for key, good in zip(batch.keys, finite, strict=True) if good]
        batch.vectors = vectors if finite.all() else vectors[finite]


def _await_decoded(photos: Sequence[_PendingPhoto], until: float) -> None:
    """Waits for the pixels of photos, until a time of the monotonic clock.

    Raises:
        TimeoutError: they are not there by then; those that no decoder has begun with are given up.
    """
    futures = [photo.pixels for photo in photos]
    if until < math.inf and wait(futures, max(0.0, until - time.monotonic())).not_done:
        for future in futures:
            future.cancel()
        raise TimeoutError


def _add_to_batch(photo: _PendingPhoto, batch: ExtractedBatch) -> np.ndarray | None:
    """Waits for a photo's pixels and adds its key to the batch; None if it failed, which is then in `failures`."""
    try:
        pixels = photo.pixels.result()
    except BadImage as bad:
        batch.failures.append((photo.key, bad))
        return None
    batch.keys.append(photo.key)
    return pixels


def _take_rows(pixels: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Takes rows in rising order; without a copy where they are contiguous."""
    block = pixels[rows[0] : rows[-1] + 1]
    return block if len(block) == len(rows) else pixels[rows]


def _decode_batch(batch: ExtractedBatch, photos: Sequence[bytes], decode: BatchDecoder) -> Any:
    """Decodes the photos of a batch in the runtime; moves those that fail to its failures."""
    pixels, bad = decode(photos)
    batch.failures += [(batch.keys[number], bad[number]) for number in sorted(bad)]
    batch.keys = [key for number, key in enumerate(batch.keys) if number not in bad]
    return pixels
