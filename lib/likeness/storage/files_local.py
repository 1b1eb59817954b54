"""The file store of local disks."""

import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from likeness.core import uris
from likeness.storage.ports import FileEntry


class LocalFiles:
    """Files on this machine."""

    def walk(self, folder: str) -> Iterator[FileEntry]:
        """Every file below a folder, without hidden ones; links to folders are not followed."""
        path = uris.local_path(folder)
        with os.scandir(path) as entries:
            yield from self._walk(entries, str(path.resolve()))

    def _walk(self, entries: Iterable["os.DirEntry[str]"], top: str) -> Iterator[FileEntry]:
        for entry in sorted(entries, key=lambda item: item.name):
            if entry.name.startswith(".") or entry.name == "_temporary":
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    with os.scandir(entry.path) as inner:
                        yield from self._walk(inner, top)
                    continue
                file = _linked(entry, top) if entry.is_symlink() else _regular(entry.path, entry.stat())
            except FileNotFoundError:
                continue  # deleted since its folder was read
            if file:
                yield file

    def stat(self, uri: str) -> FileEntry:
        """Size and time of change of a file."""
        path = uris.local_path(uri)
        return _entry(str(path), path.stat())

    def exists(self, uri: str) -> bool:
        """Whether a file or folder exists."""
        return uris.local_path(uri).exists()

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files and folders in a folder."""
        try:
            return sorted(child.name for child in uris.local_path(folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def open(self, uri: str) -> BinaryIO:
        """Opens a file for reading."""
        return uris.local_path(uri).open("rb")

    def read(self, uri: str) -> bytes:
        """Reads a whole file."""
        return uris.local_path(uri).read_bytes()

    def write(self, uri: str, data: bytes) -> None:
        """Writes a file atomically."""
        _publish(uri, lambda draft: draft.write_bytes(data), Path.replace)

    def create(self, uri: str, data: bytes) -> None:
        """Creates a file that must not exist yet."""
        # unlike a rename, a link refuses an existing name
        _publish(uri, lambda draft: draft.write_bytes(data), os.link)

    def upload(self, local: str, uri: str) -> None:
        """Copies a local file to a URI, atomically."""
        _publish(uri, lambda draft: shutil.copyfile(local, draft), Path.replace)

    def delete(self, uri: str) -> None:
        """Deletes a file, or a folder with its content."""
        path = uris.local_path(uri)
        while path.is_dir() and not path.is_symlink():
            with suppress(FileNotFoundError):  # another process deletes it at the same time
                shutil.rmtree(path)
        path.unlink(missing_ok=True)


def _publish(uri: str, fill: Callable[[Path], object], name: Callable[[Path, Path], object]) -> None:
    """Fills a hidden file beside the target, syncs it, and names it as the target; a failure removes it."""
    target = uris.local_path(uri)
    draft = target.with_name(f".{target.name[-40:]}.{uuid.uuid4().hex}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        fill(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        name(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _linked(entry: "os.DirEntry[str]", top: str) -> FileEntry | None:
    """The file that a link points to; a broken link is listed too, and is missing when it is read."""
    outside = not os.path.realpath(entry.path).startswith(f"{top.rstrip('/')}/")
    try:
        status = entry.stat()
    except OSError:  # broken, or a loop
        return _entry(entry.path, entry.stat(follow_symlinks=False), outside)
    return _regular(entry.path, status, outside)


def _regular(path: str, status: os.stat_result, outside: bool = False) -> FileEntry | None:
    """The entry of a regular file; None for a folder, a pipe or a device, which could block a reader."""
    return _entry(path, status, outside) if stat.S_ISREG(status.st_mode) else None


def _entry(path: str, status: os.stat_result, outside: bool = False) -> FileEntry:
    return FileEntry(f"file://{path}", status.st_size, status.st_mtime_ns // 1000, outside)
