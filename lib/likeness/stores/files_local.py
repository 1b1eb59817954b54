"""The files port on local disks."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from likeness import uris
from likeness.stores.ports import FileEntry


class LocalFiles:
    """Files of this machine."""

    def walk(self, folder: str) -> Iterator[FileEntry]:
        """Every file below a folder; hidden ones left out, links to folders not followed."""
        path = uris.local_path(folder)
        yield from self._walk(str(path), str(path.resolve()))

    def _walk(self, folder: str, inside: str) -> Iterator[FileEntry]:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda item: item.name):
                if entry.name.startswith(".") or entry.name == "_temporary":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(entry.path, inside)
                elif entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if not Path(target).is_dir():
                        there = entry.is_file()
                        leaves = not target.startswith(f"{inside}/")
                        yield _entry(entry.path, entry.stat(follow_symlinks=there), leaves)
                elif entry.is_file():
                    yield _entry(entry.path, entry.stat())

    def stat(self, uri: str) -> FileEntry:
        """One file's entry."""
        path = uris.local_path(uri)
        return _entry(str(path), path.stat())

    def exists(self, uri: str) -> bool:
        """Whether a file or folder is there."""
        return uris.local_path(uri).exists()

    def names(self, folder: str) -> list[str]:
        """Names directly in a folder, sorted."""
        path = uris.local_path(folder)
        return sorted(child.name for child in path.iterdir()) if path.is_dir() else []

    def open(self, uri: str) -> BinaryIO:
        """A file for reading."""
        return uris.local_path(uri).open("rb")

    def read(self, uri: str) -> bytes:
        """A whole file."""
        return uris.local_path(uri).read_bytes()

    def write(self, uri: str, data: bytes) -> None:
        """Replaces a file in one step."""
        with _Draft(uris.local_path(uri)) as draft:
            draft.path.write_bytes(data)
            draft.rename()

    def create(self, uri: str, data: bytes) -> None:
        """Makes a file that must not be there yet."""
        path = uris.local_path(uri)
        with _Draft(path) as draft:
            draft.path.write_bytes(data)
            os.link(draft.path, path)  # unlike a rename, a link refuses an existing name

    def upload(self, local: str, uri: str) -> None:
        """Copies a local file to a URI, which appears whole."""
        with _Draft(uris.local_path(uri)) as draft:
            shutil.copyfile(local, draft.path)
            draft.rename()

    def delete(self, uri: str) -> None:
        """Deletes a file, or a folder with all it holds."""
        path = uris.local_path(uri)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class _Draft:
    """A hidden name beside the target; synced and renamed onto it, or removed."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f".{target.name[-40:]}.{uuid.uuid4().hex}")

    def __enter__(self) -> "_Draft":
        self._target.parent.mkdir(parents=True, exist_ok=True)
        return self

    def rename(self) -> None:
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(self._target)

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def _entry(path: str, status: os.stat_result, leaves: bool = False) -> FileEntry:
    return FileEntry(f"file://{path}", status.st_size, status.st_mtime_ns // 1000, leaves)
