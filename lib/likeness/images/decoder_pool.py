"""A pool of decoder processes: encoded photos in, futures of pixels out; each thread drives one process."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np

from likeness.core.errors import ServiceError
from likeness.core.settings import Limits
from likeness.images.decoder_process import MAX_BATCH, Decoder, DecodeRequest
from likeness.images.image import WHOLE, BadImage, Box, Preprocessing
from likeness.images.shared_pixels import SharedPixels

_MAX_BATCH_BYTES = 4_000_000
"""A batch takes no further photo once its photos have more encoded bytes than this."""


@dataclass
class _Job:
    """One photo to decode, and the future of its pixels."""

    request: DecodeRequest
    future: "Future[np.ndarray]" = field(default_factory=Future)

    def finish(self, outcome: np.ndarray | BaseException) -> None:
        """Sets the future's result, or its exception."""
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


_Queue = SimpleQueue[_Job | None]


class DecoderPool:
    """Threads that each drive one decoder process and end with the pool.

    The threads are daemons: concurrent.futures would wait for its own at exit, however long a photo takes.

    Args:
        threads: number of threads, each with one process.
        preprocessing: what the network expects.
        limits: what one photo may cost.
        rows: rows of shared memory that photos can be decoded into.
        nice: by how much the processes yield to others, 0 to 19.
    """

    def __init__(
        self, threads: int, preprocessing: Preprocessing, limits: Limits, rows: int = 0, nice: int = 0
    ) -> None:
        self._queue: _Queue = SimpleQueue()
        shared = SharedPixels(rows, preprocessing.side)
        self.rows: np.ndarray = shared.pixels
        """uint8 (rows, side, side, 3)."""
        for _ in range(threads):
            args = (self._queue, threads, lambda: Decoder(preprocessing, limits, shared, nice))
            threading.Thread(target=_work, args=args, name="decode", daemon=True).start()
        weakref.finalize(self, _stop, self._queue, threads)

    def submit(
        self, data: bytes, box: Box = WHOLE, squash: bool = False, row: int | None = None
    ) -> "Future[np.ndarray]":
        """Starts to decode a photo, or the part of it in a box.

        Args:
            data: the encoded photo.
            box: the part to decode.
            squash: nothing is cropped: the photo is resized to a square, whatever the preprocessing says.
            row: row of `rows` that receives the pixels; new memory by default.

        Returns:
            A future of the pixels, uint8 (side, side, 3). It raises BadImage if the photo cannot be used, or what
            `Decoder` raises.
        """
        job = _Job(DecodeRequest(data, box, squash, row))
        self._queue.put(job)
        return job.future


def _work(queue: _Queue, threads: int, new_decoder: Callable[[], Decoder]) -> None:
    # the process is started here because it ends with the thread that started it
    decoder = new_decoder()
    with suppress(ServiceError):  # the first request raises it again
        decoder.start()
    while batch := _next_batch(queue, threads):
        _decode(decoder, [job for job in batch if job.future.set_running_or_notify_cancel()])
        del batch  # it would keep the pool alive while the thread waits
    decoder.close()


def _next_batch(queue: _Queue, threads: int) -> list[_Job]:
    """Waits for a job, and adds queued jobs as long as the other threads have enough; empty at the end."""
    batch, size = list[_Job](), 0
    job = queue.get()
    while job is not None:
        batch.append(job)
        size += len(job.request.data)
        if len(batch) == MAX_BATCH or size > _MAX_BATCH_BYTES or queue.qsize() < threads:
            return batch
        try:
            job = queue.get_nowait()
        except Empty:
            return batch
    if batch:  # the end marker is for the next call
        queue.put(None)
    return batch


def _decode(decoder: Decoder, batch: list[_Job]) -> None:
    if not batch:
        return
    try:
        outcomes: list[np.ndarray | BadImage] = decoder([job.request for job in batch])
    except BaseException as error:  # raised where the futures are waited for
        for job in batch:
            job.finish(error)
        return
    for job, outcome in zip(batch, outcomes, strict=True):
        job.finish(outcome)


def _stop(queue: _Queue, threads: int) -> None:
    for _ in range(threads):
        queue.put(None)
