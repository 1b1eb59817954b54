"""Pixels in memory that two processes share: rows written by one, read by the other."""

import mmap
import os
import sys
import tempfile
import weakref
from typing import IO

import numpy as np

Handle = tuple[int, int, int]
"""Arguments of `SharedPixels` in another process: rows, side and file descriptor."""


class SharedPixels:
    """Memory that two processes share for pixels, which are too many to send. Freed with the last array on it."""

    def __init__(self, rows: int, side: int, fd: int | None = None) -> None:
        """Allocates memory, of which only what is written takes space; or maps that of another process's `fd`."""
        if fd is not None:
            self._file: IO[bytes] = os.fdopen(fd, "r+b", buffering=0)
        elif sys.platform == "linux":
            self._file = os.fdopen(os.memfd_create("likeness-decoder"), "r+b", buffering=0)
        else:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as this
        length = rows * side**2 * 3
        weakref.finalize(self, self._file.close)
        self._file.truncate(8 + length)
        memory = mmap.mmap(self._file.fileno(), 8 + length)
        self._done = np.frombuffer(memory, np.int64, 1)
        self.pixels = np.frombuffer(memory, np.uint8, length, 8).reshape(rows, side, side, 3)
        """uint8 (rows, side, side, 3)."""

    @property
    def done(self) -> int:
        """Number of photos decoded so far."""
        return int(self._done[0])

    @done.setter
    def done(self, count: int) -> None:
        self._done[0] = count

    @property
    def handle(self) -> Handle:
        """What the process that inherits the file descriptor needs."""
        return len(self.pixels), self.pixels.shape[1], self._file.fileno()
