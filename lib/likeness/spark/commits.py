"""Concurrent commits of several runs to one table: serialised by a lock, or retried.   [pyspark]

Iceberg's hadoop catalogue commits by renaming a file to the name of the next version. HDFS refuses to replace an
existing file, and the commit is retried. A local disk replaces the file, so that of two concurrent commits the first
would be lost silently. There a file lock serialises the commits to a table; it is released when its process ends.
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
_LOCK_TIMEOUT_S = 600.0
_ATTEMPTS = 10
_CONFLICTS = (
    "org.apache.iceberg.exceptions.CommitFailedException",
    "org.apache.iceberg.exceptions.ValidationException",
)
"""Iceberg's errors of a commit that failed because another came first."""


class Commits:
    """Commits from this process to the tables of one warehouse."""

    def __init__(self, location: str) -> None:
        """`location` is the warehouse's URI."""
        self._folder = uris.local_path(location) if uris.scheme(location) == "file" else None

    def run(self, table: str, commit: Callable[[], T]) -> T:
        """Calls `commit`, and retries it after a conflict; each call must load the table again.

        Raises:
            ServiceError: another run holds the lock of the table for minutes.
        """
        with self._locked(table):
            for attempt in range(1, _ATTEMPTS):
                try:
                    return commit()
                except (PySparkException, Py4JJavaError) as error:
                    if not any(name in str(error) for name in _CONFLICTS):
                        raise
                    time.sleep(random.uniform(0, 0.05 * 2**attempt))
            return commit()

    @contextmanager
    def _locked(self, table: str) -> Iterator[None]:
        if self._folder is None:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".{table}.lock"
        with os.fdopen(os.open(path, os.O_CREAT | os.O_RDONLY)) as file:
            _lock(file.fileno(), table, path)
            yield


def _lock(handle: int, table: str, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"table {table}: another run has held {path} for {_LOCK_TIMEOUT_S:.0f} s; "
                    "`likeness unlock` lists the active runs, stop the one that hangs"
                ) from None
            time.sleep(0.02)
