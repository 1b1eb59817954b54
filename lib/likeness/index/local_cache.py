"""The local cache: files of builds on HDFS in, checked copies in a folder of this machine out."""

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
    """Copies of one root's builds, as `SPACE/BUILD/file` below a folder of the root's own."""

    def __init__(self, folder: str, cache: str) -> None:
        self._source = folder
        self._home = Path(cache).expanduser() / "builds" / hashlib.sha256(folder.encode()).hexdigest()[:16]

    def fetch(self, space: str, files: Iterable[File]) -> Path:
        """Copies files of a space; returns the folder. Copies of builds that were not used for a day are deleted.

        Raises:
            DataError: a file is missing or has another checksum.
            ServiceError: the copy cannot be written.
        """
        folder = self._home / space
        try:
            for file in files:
                path = folder / file.name
                if not path.exists() or path.stat().st_size != file.bytes:
                    storage.fetch(uris.join(self._source, space, file.name), path, file.sha256)
                os.utime(path.parent)
            for build in self._home.glob("*/*"):
                if build.stat().st_mtime < time.time() - _IDLE_S:
                    shutil.rmtree(build, ignore_errors=True)
        except FileNotFoundError as error:
            raise DataError(f"{error} is missing", "roll back with `likeness rollback`") from None
        except OSError as error:
            raise ServiceError(f"{self._source} cannot be copied to {folder}: {error}; free some disk") from None
        return folder

    def clear(self) -> None:
        """Deletes all copies."""
        shutil.rmtree(self._home, ignore_errors=True)
