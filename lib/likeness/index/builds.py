"""Builds: immutable folders of shards with a manifest; published, verified and rolled back by one small file.

ROOT/builds/CURRENT names the build in service and those before it, newest first. It is replaced by one
rename, so a reader sees one chain or the other.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError, UsageError
from likeness.index.local_cache import LocalCache
from likeness.index.manifest import Manifest
from likeness.storage.artifact import File

MANIFEST = "manifest.json"
CURRENT = "CURRENT"


class _Chain(BaseModel):
    """The content of CURRENT."""

    current: str
    previous: Sequence[str]


class Builds:
    """The builds of one root; what is copied to this machine goes to `cache`."""

    def __init__(self, root: str, cache: str = "~/.cache/likeness") -> None:
        self.folder = uris.join(uris.canonical(root), "builds")
        self._copies = LocalCache(self.folder, cache)
        self._files = storage.files(self.folder)

    def chain(self) -> list[str]:
        """Published builds as `space/build`, the one in service first; empty before the first publish."""
        uri = uris.join(self.folder, CURRENT)
        try:
            chain = _Chain.model_validate_json(self._files.read(uri))
            return [chain.current, *chain.previous]
        except FileNotFoundError:
            return []
        except ValueError:
            raise DataError(f"{uri} is damaged; write it anew with `likeness rollback --to BUILD`") from None

    def current(self) -> Manifest | None:
        """The manifest of the build in service; None before the first publish."""
        chain = self.chain()
        return self.read(chain[0]) if chain else None

    def find(self, name: str = "") -> Manifest:
        """A build by its name or `space/build`; the one in service if empty.

        Raises:
            UsageError: nothing is published, or there is no such build.
        """
        if not name:
            current = self.current()
            if current is None:
                raise UsageError(f"{self.folder}: nothing is published yet; run ./spark-submit.sh nightly first")
            return current
        known = list(self.all())
        for path in known:
            if name in (path, path.partition("/")[2]):
                return self.read(path)
        raise UsageError(f"build {name!r} is not in {self.folder}; there are: {', '.join(known) or 'none'}")

    def all(self) -> Iterator[str]:
        """Every whole build (one with a manifest) as `space/build`, by space and age."""
        for space in self._files.names(self.folder):
            yield from self.of(space)

    def of(self, space: str) -> list[str]:
        """The whole builds of one space as `space/build`, by age."""
        folder = uris.join(self.folder, space)
        names = self._files.names(folder)
        return [f"{space}/{name}" for name in names if self._files.exists(uris.join(folder, name, MANIFEST))]

    def read(self, path: str) -> Manifest:
        """One build's manifest.

        Raises:
            DataError: missing or damaged.
        """
        uri = uris.join(self.folder, path, MANIFEST)
        try:
            return Manifest.model_validate_json(self._files.read(uri))
        except FileNotFoundError:
            raise DataError(f"{uri} is missing; roll back with `likeness rollback`") from None
        except ValueError as error:
            raise DataError(f"{uri} is damaged ({error}); roll back with `likeness rollback`") from None

    def write(self, manifest: Manifest) -> None:
        """Makes a build whole: its manifest is its last file."""
        uri = uris.join(self.folder, manifest.path, MANIFEST)
        self._files.write(uri, manifest.model_dump_json(indent=2).encode())

    def publish(self, manifest: Manifest, keep: int) -> None:
        """Puts a build in service and deletes builds of its space that are older than the last `keep`."""
        chain = [manifest.path, *(path for path in self.chain() if path != manifest.path)][:keep]
        self._point(chain)
        self.sweep(manifest.space, before=manifest.build)

    def sweep_all(self, held: str) -> tuple[int, int]:
        """Sweeps every space but for its newest build; in the space that is held, unfinished builds go at any age.

        Returns:
            builds and files that went.
        """
        newest = dict(path.split("/") for path in self.all())  # the last of a space stays
        told = [self.sweep(space, build, unfinished=space == held) for space, build in newest.items()]
        return sum(builds for builds, _ in told), sum(files for _, files in told)

    def sweep(self, space: str, before: str, unfinished: bool = False) -> tuple[int, int]:
        """Deletes what was made before a build, is not in the chain, and no build that stays takes shards from.

        Args:
            space: the feature space.
            before: the build.
            unfinished: builds without a manifest go as well if they are younger; nobody may be at work on one.

        Returns:
            builds and files that went.
        """
        folder, chain = uris.join(self.folder, space), self.chain()
        whole = {path.partition("/")[2] for path in self.of(space)}
        names = [name for name in self._files.names(folder) if f"{space}/{name}" not in chain]
        old = [name for name in names if name < before or (unfinished and name not in whole)]
        gone = 0
        for build in old:  # first: half a build is none
            manifest = uris.join(folder, build, MANIFEST)
            gone += self._files.exists(manifest)
            self._files.delete(manifest)
        needed: set[str] = set()
        for path in self.of(space):
            with suppress(DataError):  # of a damaged build nothing can be kept but its own folder
                needed |= {file.name for file in self.read(path).files}
        files = 0
        for build in old:
            left = self._files.names(uris.join(folder, build))
            dead = [name for name in left if f"{build}/{name}" not in needed]
            files += len(dead)
            for name in dead if len(dead) < len(left) else [""]:
                self._files.delete(uris.join(folder, build, name) if name else uris.join(folder, build))
        return gone, files

    def keep_only(self, manifest: Manifest | None) -> int:
        """Deletes every build but one, of all spaces, and all copies on this machine; returns how many builds went.

        None deletes them all: nothing is in service then.
        """
        if manifest:
            self._point([manifest.path])
        else:
            self._files.delete(uris.join(self.folder, CURRENT))
        gone = 0
        for space in self._files.names(self.folder):
            for build in self._files.names(uris.join(self.folder, space)):
                if not manifest or f"{space}/{build}" != manifest.path:
                    self._files.delete(uris.join(self.folder, space, build))
                    gone += 1
        self._copies.clear()
        return gone

    def rollback(self, to: str = "") -> tuple[str | None, str]:
        """Puts the previous build, or a named one, back in service; returns what was and what is.

        Raises:
            UsageError: there is no build to go back to.
        """
        if to:
            target = self.find(to).path
            try:
                chain = self.chain()
            except DataError:
                chain = []
            rest = chain[chain.index(target) + 1 :] if target in chain else chain
            self._point([target, *rest])
            return (chain[0] if chain else None), target
        chain = self.chain()
        if len(chain) < 2:
            raise UsageError(f"{self.folder}: no earlier build to roll back to")
        self.read(chain[1])
        self._point(chain[1:])
        return chain[0], chain[1]

    def problems(self, manifest: Manifest) -> list[str]:
        """What is wrong with a build's files: missing, another length or checksum; empty if nothing."""
        found = []
        for file in manifest.files:
            uri = self.uri(manifest, file)
            try:
                with self._files.open(uri) as handle:
                    checksum = checksum_of(handle)
            except FileNotFoundError:
                found.append(f"{uri} is missing")
                continue
            except OSError as error:
                found.append(f"{uri} cannot be read: {error}")
                continue
            if checksum != file.sha256:
                found.append(f"{uri} has checksum {checksum[:12]}, the manifest says {file.sha256[:12]}")
        return found

    def missing(self, manifest: Manifest) -> list[str]:
        """The files of a build that are not there, without a look inside those that are."""
        return [uri for file in manifest.files if not self._files.exists(uri := self.uri(manifest, file))]

    def uri(self, manifest: Manifest, file: File) -> str:
        """Where a file of a build is."""
        return uris.join(self.folder, manifest.space, file.name)

    def add(self, space: str, name: str, data: bytes) -> File:
        """Writes a file (`build/file`) of a build that has no manifest yet."""
        self._files.write(uris.join(self.folder, space, name), data)
        return File(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def local(self, manifest: Manifest, files: Iterable[File] = ()) -> Path:
        """A folder of this machine with the files of a build under their names: the space's own, or one of copies.

        Args:
            manifest: the build.
            files: those that are wanted of it; all if empty.

        Raises:
            DataError: a file has to be copied, and is missing or has another checksum.
            ServiceError: the copy cannot be written.
        """
        if uris.scheme(self.folder) == "file":
            return uris.local_path(uris.join(self.folder, manifest.space))
        return self._copies.bring(manifest.space, files or manifest.files)

    def _point(self, chain: Sequence[str]) -> None:
        content = _Chain(current=chain[0], previous=chain[1:]).model_dump_json(indent=2)
        self._files.write(uris.join(self.folder, CURRENT), content.encode() + b"\n")


def checksum_of(file: BinaryIO) -> str:
    """The SHA-256 of what is left of a file, hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
