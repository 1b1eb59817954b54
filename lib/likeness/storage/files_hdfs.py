"""The files port on HDFS, without a JVM.   [hdfs-native, tenacity]

A client finds the NameNodes of a nameservice in HADOOP_CONF_DIR, or in the configuration that YARN gives its
containers; `hdfs://host:port` needs neither.
"""

import functools
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hdfs_native import Client, WriteOptions
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from likeness.storage.ports import FileEntry

_BLOCK = 1 << 20
_WRITE_S = 45  # seconds that a write is tried again while DataNodes fail it
_PASSING = ("OperationFailed", "DataTransferError", "NotReplicatedYet", "Connection reset", "Broken pipe")
# how long a NameNode is asked that does not answer: some 20 s, where Hadoop's own defaults take minutes
_PATIENCE = {"dfs.client.failover.max.attempts": "6", "dfs.client.failover.sleep.max.millis": "5000"}
_DOWN = "Connection refused"
_YARN_CONF = "__spark_conf__/__hadoop_conf__"
_REMEDIES = {
    "SafeModeException": "HDFS is in safe mode and takes no writes; wait until it leaves it (`hdfs dfsadmin "
    "-safemode get`), or see why DataNodes are missing",
    _DOWN: "HDFS does not answer; is its NameNode up, and are host and port right?",
    "AccessControlException": "this user may not do that; ask for the permission, or set HADOOP_USER_NAME",
}


class _DataNodeFailed(OSError):
    """A DataNode does not answer: the NameNode may name another one next time."""


class HdfsFiles:
    """Files of one HDFS, named by scheme and authority: `hdfs://host:port` or `hdfs://nameservice`."""

    def __init__(self, authority: str) -> None:
        self._authority = authority

    @property
    def _client(self) -> Client:
        return _client(self._authority, os.getpid())

    def walk(self, folder: str) -> Iterator[FileEntry]:
        """Every file below a folder; hidden ones left out."""
        with _named(folder):
            if not self._client.get_file_info(self._path(folder)).isdir:
                raise NotADirectoryError(f"{folder} is no folder")
            entries = sorted(self._client.list_status(self._path(folder)), key=lambda entry: entry.path)
        for entry in entries:
            name = entry.path.rpartition("/")[2]
            if name.startswith(".") or name == "_temporary":
                continue
            if entry.isdir:
                with suppress(FileNotFoundError):  # deleted since its folder was read
                    yield from self.walk(f"{self._authority}{entry.path}")
            else:
                yield self._entry(entry)

    def stat(self, uri: str) -> FileEntry:
        """One file's entry."""
        with _named(uri):
            return self._entry(self._client.get_file_info(self._path(uri)))

    def exists(self, uri: str) -> bool:
        """Whether a file or folder is there."""
        try:
            self.stat(uri)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def names(self, folder: str) -> list[str]:
        """Names directly in a folder, sorted."""
        path = self._path(folder)
        try:
            with _named(folder):
                found = [entry.path for entry in self._client.list_status(path)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name.rpartition("/")[2] for name in found if name != path)  # a file lists itself

    def open(self, uri: str) -> BinaryIO:
        """A file for reading."""
        with _named(uri):
            return io.BufferedReader(_Reader(self._client, self._path(uri)), _BLOCK)

    def read(self, uri: str) -> bytes:
        """A whole file."""
        with _named(uri):
            return self._client.read(self._path(uri)).read()

    def write(self, uri: str, data: bytes) -> None:
        """Replaces a file in one step."""
        self._put(uri, io.BytesIO(data), overwrite=True)

    def create(self, uri: str, data: bytes) -> None:
        """Makes a file that must not be there yet."""
        self._put(uri, io.BytesIO(data), overwrite=False)

    def upload(self, local: str, uri: str) -> None:
        """Copies a local file to a URI, which appears whole."""
        with Path(local).open("rb") as file:
            self._put(uri, file, overwrite=True)

    def delete(self, uri: str) -> None:
        """Deletes a file, or a folder with all it holds."""
        with _named(uri), suppress(FileNotFoundError):
            self._client.delete(self._path(uri), recursive=True)

    def _put(self, uri: str, source: BinaryIO, overwrite: bool) -> None:
        """Writes a hidden file beside the target and renames it onto it: the rename is atomic."""
        path = self._path(uri)
        with _named(uri):
            draft = Retrying(
                retry=retry_if_exception(_passing),
                wait=wait_exponential_jitter(multiplier=0.5, max=8),
                stop=stop_after_delay(_WRITE_S),
                reraise=True,
            )(self._draft, path, source)
            with self._dropped_on_failure(draft):
                self._client.rename(draft, path, overwrite)

    def _draft(self, path: str, source: BinaryIO) -> str:
        """Writes a hidden file beside a path. A DataNode that dies meanwhile fails it, and the next try avoids it."""
        folder, _, name = path.rpartition("/")
        draft = f"{folder}/.{name[-40:]}.{uuid.uuid4().hex}"
        source.seek(0)
        with self._dropped_on_failure(draft):
            file = self._client.create(draft, WriteOptions(create_parent=True))
            with _to_datanodes(), file:
                shutil.copyfileobj(source, file, 4 * _BLOCK)
        return draft

    @contextmanager
    def _dropped_on_failure(self, draft: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            gone = _DOWN in str(error) and not isinstance(error, _DataNodeFailed)
            if not gone:  # otherwise to delete it would only wait once more
                with suppress(OSError, RuntimeError):  # the error that led here is the one to tell
                    self._client.delete(draft)
            raise

    def _path(self, uri: str) -> str:
        return uri.removeprefix(self._authority).rstrip("/") or "/"

    def _entry(self, status: object) -> FileEntry:
        return FileEntry(f"{self._authority}{status.path}", status.length, status.modification_time * 1000)  # type: ignore[attr-defined]


class _Reader(io.RawIOBase):
    """Reads ranges of an HDFS file, so that a buffer can stand before it."""

    def __init__(self, client: Client, path: str) -> None:
        self._file, self._place = client.read(path), 0
        self._length = len(self._file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._length - self._place))
        if wanted:
            buffer[:wanted] = self._file.read_range(self._place, wanted)
            self._place += wanted
        return wanted


@functools.cache
def _client(authority: str, process: int) -> Client:
    """One client a process: its threads do not survive a fork."""
    folder = os.environ.get("HADOOP_CONF_DIR")
    if not folder and Path(_YARN_CONF).is_dir():
        folder = _YARN_CONF
    return Client(authority, _PATIENCE, config_dir=folder)


def _passing(error: BaseException) -> bool:
    """Whether a write may succeed if it is tried again: a DataNode or a connection failed, not the request."""
    return isinstance(error, _DataNodeFailed) or (
        isinstance(error, OSError | RuntimeError) and any(name in str(error) for name in _PASSING)
    )


@contextmanager
def _to_datanodes() -> Iterator[None]:
    """Writes to a file that the NameNode has just created: who refuses a connection now is a DataNode."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if _DOWN in str(error):
            raise _DataNodeFailed(f"no DataNode takes its blocks ({error}); see `hdfs dfsadmin -report`") from None
        raise


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """hdfs-native's errors as the port's: what is no OSError yet becomes one, with the remedy where it is known."""
    try:
        yield
    except OSError as error:
        raise _explained(uri, error) from None
    except (RuntimeError, ValueError) as error:
        raise _explained(uri, OSError(str(error))) from None


def _explained(uri: str, error: OSError) -> OSError:
    told = str(error)
    if isinstance(error, _DataNodeFailed):
        return OSError(f"{uri}: {told}")
    if "is not a directory" in told:  # HDFS takes it for a question of permission
        return NotADirectoryError(f"{uri}: a part of it is a file, not a folder")
    remedy = next((text for name, text in _REMEDIES.items() if name in told), "")
    kinds = {"FileNotFound": FileNotFoundError, "AlreadyExists": FileExistsError, "NotDirectory": NotADirectoryError}
    kind = next((known for name, known in kinds.items() if name in told), type(error))
    return kind(f"{uri}: {remedy or told}")
