"""Photos decoded beside each other: bytes in, pixels out, one decoder process a thread."""

import threading
import weakref
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from likeness.decoding import Decoder
from likeness.errors import ServiceError
from likeness.images import WHOLE, Box, Preprocessing
from likeness.settings import Limits


@dataclass
class _Job:
    """One photo that is to be decoded."""

    data: bytes
    box: Box
    uncut: bool
    future: "Future[np.ndarray]" = field(default_factory=Future)

    def run(self, decoder: Decoder) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(decoder(self.data, self.box, self.uncut))
            except BaseException as error:  # the one who waits for it gets it
                self.future.set_exception(error)


class Decoders:
    """Threads that each drive a decoder, and end with the pool.

    concurrent.futures' own threads would be joined at exit, however long a photo takes.
    """

    def __init__(self, threads: int, how: Preprocessing, limits: Limits) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=_work, args=(self._jobs, how, limits), name="decode", daemon=True).start()
        weakref.finalize(self, _end, self._jobs, threads)

    def submit(self, data: bytes, box: Box = WHOLE, uncut: bool = False) -> "Future[np.ndarray]":
        """Begins with a photo, or the part of it in a box; the future is what `Decoder` gives, or raises."""
        job = _Job(data, box, uncut)
        self._jobs.put(job)
        return job.future


def _work(jobs: "SimpleQueue[_Job | None]", how: Preprocessing, limits: Limits) -> None:
    # a process ends with the thread that has begun it
    decoder = Decoder(how, limits)
    with suppress(ServiceError):  # it is told to who asks for something
        decoder.begin()
    while (job := jobs.get()) is not None:
        job.run(decoder)
        del job  # it would keep the pool alive while the thread waits
    decoder.close()


def _end(jobs: "SimpleQueue[_Job | None]", threads: int) -> None:
    for _ in range(threads):
        jobs.put(None)
