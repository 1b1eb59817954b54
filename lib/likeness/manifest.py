"""Builds: immutable folders of shards with a manifest; published, verified and rolled back by one small file.

ROOT/builds/CURRENT names the build in service and those before it, newest first. It is replaced by one
rename, so a reader sees one chain or the other.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import BaseModel, ConfigDict

from likeness import stores, uris
from likeness.errors import DataError, ServiceError, UsageError

MANIFEST = "manifest.json"
CURRENT = "CURRENT"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Frozen):
    """One file of a build: its name in the build's folder, bytes and SHA-256."""

    name: str
    bytes: int
    sha256: str


class Recall(_Frozen):
    """What the audit measured: the share of the exact `k` nearest found, over held-out queries."""

    k: int
    queries: int
    value: float


class Point(_Frozen):
    """What one kind with one knob reached when the index of a shard was chosen; `ms` is for one query of a batch."""

    kind: str
    knob: Mapping[str, int]
    recall: float
    ms: float


class Shard(_Frozen):
    """One FAISS index: the images of one category, or of a part of it. `knob` is what its searches turn."""

    number: int
    category: str
    part: int
    parts: int
    vectors: int
    recall: Recall
    index: File
    ids: File
    kind: str = "flat"
    knob: Mapping[str, int] = {}
    curve: list[Point] = []


class _Chain(_Frozen):
    """The content of CURRENT."""

    current: str
    previous: Sequence[str]


class Manifest(_Frozen):
    """What a build holds, what it was made from, and the recall it reached."""

    format: Literal[1] = 1
    build: str
    run_id: str
    created: str
    space: str
    dim: int
    kind: str
    metric: Literal["cosine", "l2", "ip"]
    snapshots: Mapping[str, int]
    index_settings: Mapping[str, int | float | str]
    images: int
    products: int
    vectors: int
    shards: Sequence[Shard]

    @property
    def path(self) -> str:
        """`space/build`, as CURRENT names it."""
        return f"{self.space}/{self.build}"

    def categories(self) -> dict[str, int]:
        """Vectors by category, in the order of the names."""
        sizes: dict[str, int] = {}
        for shard in sorted(self.shards, key=lambda item: item.category):
            sizes[shard.category] = sizes.get(shard.category, 0) + shard.vectors
        return sizes


class Builds:
    """The builds of one root; what is copied to this machine goes to `cache`."""

    def __init__(self, root: str, cache: str = "~/.cache/likeness") -> None:
        self._cache = cache
        self.folder = uris.join(uris.canonical(root), "builds")
        self._files = stores.files(self.folder)

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
            for build in self._files.names(uris.join(self.folder, space)):
                if self._files.exists(uris.join(self.folder, space, build, MANIFEST)):
                    yield f"{space}/{build}"

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
        space = uris.join(self.folder, manifest.space)
        for build in self._files.names(space):
            if f"{manifest.space}/{build}" not in chain and build < manifest.build:
                self._files.delete(uris.join(space, build, MANIFEST))  # first: half a build is none
                self._files.delete(uris.join(space, build))

    def keep_only(self, manifest: Manifest | None) -> int:
        """Deletes every build but one, of all spaces, and the copies on this machine; returns how many went.

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
        for copy in self._copies().glob("*/*"):
            if not manifest or copy != self._copies() / manifest.path:
                shutil.rmtree(copy, ignore_errors=True)
        return gone

    def _copies(self) -> Path:
        """The folder of this machine for copies of this root's builds."""
        return Path(self._cache).expanduser() / "builds" / hashlib.sha256(self.folder.encode()).hexdigest()[:16]

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
        for shard in manifest.shards:
            for file in (shard.index, shard.ids):
                uri = uris.join(self.folder, manifest.path, file.name)
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

    def local(self, manifest: Manifest) -> Path:
        """A folder of this machine with the build's shards: the build itself, or a copy in a cache.

        What is copied is checked against its checksum, and of a root's older copies all but one are deleted.

        Raises:
            DataError: a file is missing or has another checksum.
            ServiceError: the copy cannot be written.
        """
        if uris.scheme(self.folder) == "file":
            return uris.local_path(uris.join(self.folder, manifest.path))
        home = self._copies()
        folder = home / manifest.path
        try:
            for shard in manifest.shards:
                for file in (shard.index, shard.ids):
                    if not _same_length(folder / file.name, file):
                        stores.fetch(uris.join(self.folder, manifest.path, file.name), folder / file.name, file.sha256)
            os.utime(folder)
            others = sorted(home.glob("*/*"), key=lambda path: path.stat().st_mtime, reverse=True)
            for other in others[2:]:
                shutil.rmtree(other, ignore_errors=True)
        except FileNotFoundError as error:
            raise DataError(f"{error} is missing; roll back with `likeness rollback`") from None
        except OSError as error:
            raise ServiceError(f"{manifest.path} cannot be copied to {folder}: {error}; free some disk") from None
        return folder

    def _point(self, chain: Sequence[str]) -> None:
        content = _Chain(current=chain[0], previous=chain[1:]).model_dump_json(indent=2)
        self._files.write(uris.join(self.folder, CURRENT), content.encode() + b"\n")


def _same_length(path: Path, file: File) -> bool:
    return path.exists() and path.stat().st_size == file.bytes


def checksum_of(file: BinaryIO) -> str:
    """The SHA-256 of what is left of a file, hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def build_name(run_id: str) -> str:
    """The folder name of a run's build; names sort by age."""
    return re.sub(r"[^0-9A-Za-z-]", "-", run_id)
