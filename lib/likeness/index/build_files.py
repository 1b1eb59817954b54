"""Files of builds: a folder `builds/SPACE/BUILD` each, with shards and a manifest; read, written and checked."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError
from likeness.index.local_cache import LocalCache
from likeness.index.manifest import Manifest
from likeness.index.published import CURRENT
from likeness.storage.artifact import File

MANIFEST = "manifest.json"


class BuildFiles:
    """The files of all builds of a root, whether published or not."""

    def __init__(self, root: str, cache: str) -> None:
        """Opens the builds of a root; `cache` is a local folder for copies of those on HDFS."""
        self.folder = uris.join(uris.canonical(root), "builds")
        self._cache = LocalCache(self.folder, cache)
        self._files = storage.files(self.folder)

    def all(self) -> Iterator[str]:
        """Every complete build (one with a manifest) as `space/build`, by space and age."""
        for space in self._names():
            yield from self.of(space)

    def of(self, space: str) -> list[str]:
        """The complete builds of one space as `space/build`, by age."""
        paths = [f"{space}/{name}" for name in self._names(space)]
        return [path for path in paths if self._files.exists(uris.join(self.folder, path, MANIFEST))]

    def read(self, path: str) -> Manifest:
        """Reads the manifest of a build.

        Raises:
            DataError: missing or damaged.
        """
        uri = uris.join(self.folder, path, MANIFEST)
        try:
            return Manifest.model_validate_json(self._files.read(uri))
        except FileNotFoundError:
            raise DataError(f"{uri} is missing", "roll back with `likeness rollback`") from None
        except ValueError as error:
            raise DataError(f"{uri} is damaged ({error})", "roll back with `likeness rollback`") from None

    def write(self, manifest: Manifest) -> None:
        """Completes a build: its manifest is its last file."""
        uri = uris.join(self.folder, manifest.path, MANIFEST)
        self._files.write(uri, manifest.model_dump_json(indent=2).encode())

    def problems(self, manifest: Manifest) -> list[str]:
        """Checks the files of a build; returns those missing, unreadable or with another checksum, as sentences."""
        problems = []
        for file in manifest.files:
            uri = self.uri(manifest, file)
            try:
                with self._files.open(uri) as handle:
                    checksum = checksum_of(handle)
                if checksum != file.sha256:
                    problems.append(f"{uri} has checksum {checksum[:12]}, the manifest says {file.sha256[:12]}")
            except FileNotFoundError:
                problems.append(f"{uri} is missing")
            except OSError as error:
                problems.append(f"{uri} cannot be read: {error}")
        return problems

    def missing(self, manifest: Manifest) -> list[str]:
        """The URIs of a build's files that do not exist; the others are not read."""
        return [uri for file in manifest.files if not self._files.exists(uri := self.uri(manifest, file))]

    def uri(self, manifest: Manifest, file: File) -> str:
        """The URI of a file of a build."""
        return uris.join(self.folder, manifest.space, file.name)

    def add(self, space: str, name: str, data: bytes) -> File:
        """Writes a file (`build/file`) of a build that has no manifest yet."""
        self._files.write(uris.join(self.folder, space, name), data)
        return File(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def local(self, manifest: Manifest, files: Iterable[File] = ()) -> Path:
        """A local folder with the files of a build under their names: the space's own, or one of copies.

        Args:
            manifest: the build.
            files: the files needed; all if empty.

        Raises:
            DataError: a file has to be copied, and is missing or has another checksum.
            ServiceError: the copy cannot be written.
        """
        if uris.scheme(self.folder) == "file":
            return uris.local_path(uris.join(self.folder, manifest.space))
        return self._cache.fetch(manifest.space, files or manifest.files)

    def _names(self, space: str = "") -> list[str]:
        """The names of a space's build folders, complete or not; of all spaces' folders if empty."""
        names = self._files.names(uris.join(self.folder, space) if space else self.folder)
        return [name for name in names if name != CURRENT and not name.startswith(".")]


def checksum_of(file: BinaryIO) -> str:
    """The SHA-256 of the rest of a file, hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
