"""Counts that all processes of a server share: a file of slots by name, which each process maps.   [numpy]

A slot has a bucket of requests, which refills, and what each process holds of something. What a process holds ends with
it: the next one of its number begins at 0. Used by one thread of a process, that of the event loop.
"""

import fcntl
import hashlib
import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from likeness.core.errors import ServiceError

_SLOTS, _PROBES = 1 << 14, 32
"""Names that are told apart, about; and the slots in which one may lie."""


class SharedCounts:
    """Counts by name, of one process or of several."""

    def __init__(self, path: Path | None = None, workers: int = 1) -> None:
        """Maps the file, made if it is missing, and takes the first number from 0 that no living process has.

        Args:
            path: the file; None for counts of this process alone.
            workers: processes that share the file.

        Raises:
            ServiceError: so many processes share it already.
        """
        # the one descriptor of this file: closing another would give up the locks of this process
        self._file = _open(path)
        weakref.finalize(self, os.close, self._file)
        fields = [("process", "i8"), ("name", "u8"), ("used", "f8"), ("left", "f8"), ("in_use", "i8", (workers,))]
        kind = np.dtype(fields)
        with self._locked():
            if os.fstat(self._file).st_size < _SLOTS * kind.itemsize:
                os.ftruncate(self._file, _SLOTS * kind.itemsize)
        slots = np.frombuffer(mmap.mmap(self._file, _SLOTS * kind.itemsize), kind)
        self._names, self._used, self._left, self._in_use = (slots[name] for name in ("name", "used", "left", "in_use"))
        self.number, self.before = self._take_number(slots["process"], workers)

    def _take_number(self, processes: np.ndarray, workers: int) -> tuple[int, int]:
        """The number of this process, and the id of the process that had it before; 0 if there was none."""
        for number in range(workers):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + number)  # until the process ends
            except OSError:
                continue
            before = int(processes[number])
            processes[number] = os.getpid()
            with self._locked():
                self._in_use[:, number] = 0
            return number, before
        raise ServiceError(f"{workers} processes answer already; end one of them first")

    def wait(self, name: str, rate: float, most: float) -> float:
        """Takes a request from a bucket of `most` that `rate` a second refill: 0; or the seconds until there is one."""
        with self._slot(name) as (slot, idle_s):
            left = min(most, self._left[slot] + idle_s * rate)
            taken = left >= 1
            self._left[slot] = left - taken
        return 0.0 if taken else (1 - left) / rate

    def count(self, name: str) -> int:
        """How many all processes hold."""
        with self._slot(name) as (slot, _):
            return int(self._in_use[slot].sum())

    def hold(self, name: str, count: int) -> None:
        """Holds so many more in this process; fewer if it is negative."""
        with self._slot(name) as (slot, _):
            self._in_use[slot, self.number] += count

    def hold_one(self, name: str, most: int) -> bool:
        """Holds one more, unless all processes hold `most`; whether it does."""
        with self._slot(name) as (slot, _):
            free = self._in_use[slot].sum() < most
            self._in_use[slot, self.number] += int(free)
        return bool(free)

    @contextmanager
    def _slot(self, name: str) -> Iterator[tuple[int, float]]:
        """The slot of a name, which no other process changes meanwhile, and the seconds since it was used."""
        digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) or 1
        places = (np.arange(_PROBES) + digest % _SLOTS) % _SLOTS
        with self._locked():
            now = time.monotonic()
            same = places[self._names[places] == np.uint64(digest)]
            slot = int(same[0]) if len(same) else self._make_slot(places, digest)
            idle_s, self._used[slot] = now - self._used[slot], now
            yield slot, float(idle_s)

    def _make_slot(self, places: np.ndarray, digest: int) -> int:
        """A slot for a name that has none: a free one, or that of the name used longest ago of which nothing is held.

        If something is held of all names, the last one shares its slot.
        """
        free = places[~self._in_use[places].any(axis=1)]
        if not len(free):
            return int(places[-1])
        slot = int(free[np.argmin(self._used[free])])
        self._names[slot], self._used[slot], self._left[slot] = digest, -np.inf, 0
        return slot

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Waits until no other process changes counts; a lock ends with its process."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)


def _open(path: Path | None) -> int:
    """The descriptor of a file, made if it is missing; without a path, of one without a name."""
    if path:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
