"""Copies: files of a root's builds in, the same files in a cache of this machine out, whole and checked."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError, ServiceError
from likeness.storage.artifact import File

_IDLE_S = 86_400.0


class LocalCache:
    """The copies of one root's builds, `SPACE/BUILD/file` below a folder of its own."""

    def __init__(self, folder: str, cache: str) -> None:
        self._source = folder
        self._home = Path(cache).expanduser() / "builds" / hashlib.sha256(folder.encode()).hexdigest()[:16]

    def bring(self, space: str, files: Iterable[File]) -> Path:
        """The folder of a space with copies of these files; those of builds that were not used for a day go.

        Raises:
            DataError: a file is missing or has another checksum.
            ServiceError: the copy cannot be written.
        """
        folder = self._home / space
        try:
            for file in files:
                if not _same_length(folder / file.name, file):
                    storage.fetch(uris.join(self._source, space, file.name), folder / file.name, file.sha256)
                os.utime((folder / file.name).parent)
            for build in self._home.glob("*/*"):
                if build.stat().st_mtime < time.time() - _IDLE_S:
                    shutil.rmtree(build, ignore_errors=True)
        except FileNotFoundError as error:
            raise DataError(f"{error} is missing; roll back with `likeness rollback`") from None
        except OSError as error:
            raise ServiceError(f"{self._source} cannot be copied to {folder}: {error}; free some disk") from None
        return folder

    def clear(self) -> None:
        """Deletes them all."""
        shutil.rmtree(self._home, ignore_errors=True)


def _same_length(path: Path, file: File) -> bool:
    return path.exists() and path.stat().st_size == file.bytes
