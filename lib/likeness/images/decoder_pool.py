"""Photos decoded beside each other: bytes in, pixels out, one decoder process a thread."""

import threading
import weakref
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import numpy as np

from likeness.core.errors import ServiceError
from likeness.core.settings import Limits
from likeness.images.decoder_process import GROUP, Decoder, DecodeRequest, Rows
from likeness.images.image import WHOLE, BadImage, Box, Preprocessing

_TOGETHER = 4_000_000
"""Bytes of photos after which no more are asked for at once."""


@dataclass
class _Job:
    """One photo that is to be decoded."""

    asked: DecodeRequest
    future: "Future[np.ndarray]" = field(default_factory=Future)

    def end(self, found: np.ndarray | BaseException) -> None:
        """The one who waits for it gets what was found, or why nothing was."""
        if isinstance(found, BaseException):
            self.future.set_exception(found)
        else:
            self.future.set_result(found)


_Jobs = SimpleQueue[_Job | None]


class DecoderPool:
    """Threads that each drive a decoder, and end with the pool.

    concurrent.futures' own threads would be joined at exit, however long a photo takes.

    Args:
        threads: how many.
        how: what photos are made into.
        limits: what they may take.
        rows: of the memory that photos may be decoded into.
    """

    def __init__(self, threads: int, how: Preprocessing, limits: Limits, rows: int = 0) -> None:
        self._jobs: _Jobs = SimpleQueue()
        kept = Rows(rows, how.side)
        self.rows: np.ndarray = kept.pixels
        """uint8 (rows, side, side, 3)."""
        for _ in range(threads):
            given = (self._jobs, threads, how, limits, kept)
            threading.Thread(target=_work, args=given, name="decode", daemon=True).start()
        weakref.finalize(self, _end, self._jobs, threads)

    def submit(
        self, data: bytes, box: Box = WHOLE, uncut: bool = False, row: int | None = None
    ) -> "Future[np.ndarray]":
        """Begins with a photo, or the part of it in a box.

        Args:
            data: the encoded photo.
            box: the part.
            uncut: nothing is cut off, whatever the preprocessing.
            row: of `rows`, where the pixels go; new memory by default.

        Returns:
            The pixels, uint8 (side, side, 3), or why there are none: BadImage, or what `Decoder` raises.
        """
        job = _Job(DecodeRequest(data, box, uncut, row))
        self._jobs.put(job)
        return job.future


def _work(jobs: _Jobs, threads: int, how: Preprocessing, limits: Limits, rows: Rows) -> None:
    # a process ends with the thread that has begun it
    decoder = Decoder(how, limits, rows)
    with suppress(ServiceError):  # it is told to who asks for something
        decoder.begin()
    while group := _next(jobs, threads):
        _decode(decoder, [job for job in group if job.future.set_running_or_notify_cancel()])
        del group  # it would keep the pool alive while the thread waits
    decoder.close()


def _next(jobs: _Jobs, threads: int) -> list[_Job]:
    """A photo, and some of those that wait behind it, a thread's share; none in the end."""
    group, size = list[_Job](), 0
    job = jobs.get()
    while job is not None:
        group.append(job)
        size += len(job.asked.data)
        if len(group) == GROUP or size > _TOGETHER or jobs.qsize() < threads:
            return group
        try:
            job = jobs.get_nowait()
        except Empty:
            return group
    if group:  # the next time is the end
        jobs.put(None)
    return group


def _decode(decoder: Decoder, group: list[_Job]) -> None:
    if not group:
        return
    try:
        found: list[np.ndarray | BadImage] = decoder([job.asked for job in group])
    except BaseException as error:  # whoever waits gets it
        for job in group:
            job.end(error)
        return
    for job, one in zip(group, found, strict=True):
        job.end(one)


def _end(jobs: _Jobs, threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)
