"""Commits of several runs to one table: each takes its turn, or is tried again.   [pyspark]

Iceberg's hadoop catalogue commits by renaming a file to the name of the next version. HDFS refuses a name that is
taken, and Iceberg tries again. A local disk replaces the file: of two commits at once the first would be lost without
a word. There the commits to one table take turns, by a lock of the system that ends with its process.
"""

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from likeness.core import uris
from likeness.core.errors import ServiceError

T = TypeVar("T")
_PATIENCE_S = 600.0
_TRIES = 10
_LOST = ("org.apache.iceberg.exceptions.CommitFailedException", "org.apache.iceberg.exceptions.ValidationException")
"""What Iceberg calls a commit that was not made because another came first."""


class Commits:
    """The commits to the tables of one warehouse, from this process."""

    def __init__(self, location: str) -> None:
        """`location` is the warehouse's URI."""
        self._folder = uris.local_path(location) if uris.scheme(location) == "file" else None

    def make(self, table: str, commit: Callable[[], T]) -> T:
        """Calls `commit`, again if another commit to the table came first; it must read the table anew each time.

        Raises:
            ServiceError: another run has been committing to the table for minutes.
        """
        with self._turn(table):
            for attempt in range(1, _TRIES):
                try:
                    return commit()
                except (PySparkException, Py4JJavaError) as error:
                    if not any(name in str(error) for name in _LOST):
                        raise
                    time.sleep(random.uniform(0, 0.05 * 2**attempt))
            return commit()

    @contextmanager
    def _turn(self, table: str) -> Iterator[None]:
        if self._folder is None:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".{table}.lock"
        handle = os.open(path, os.O_CREAT | os.O_RDONLY)
        try:
            _lock(handle, table, path)
            yield
        finally:
            os.close(handle)


def _lock(handle: int, table: str, path: Path) -> None:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise ServiceError(
                    f"table {table}: another run has been committing for {_PATIENCE_S:.0f} s, and holds {path}; "
                    "`likeness unlock` lists who is at work, stop the one that hangs"
                ) from None
            time.sleep(0.02)
