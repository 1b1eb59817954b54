"""The file store of HDFS, without a JVM.   [hdfs-native, tenacity]

The NameNodes of a nameservice are read from HADOOP_CONF_DIR, or from the configuration that YARN puts into its
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
_WRITE_S = 45  # seconds for which a write is retried while DataNodes fail
_TRANSIENT = ("OperationFailed", "DataTransferError", "NotReplicatedYet", "Connection reset", "Broken pipe")
# gives up a NameNode that does not answer after about 20 s; Hadoop's defaults take minutes
_FAILOVER = {"dfs.client.failover.max.attempts": "6", "dfs.client.failover.sleep.max.millis": "5000"}
_DOWN = "Connection refused"
_YARN_CONF = "__spark_conf__/__hadoop_conf__"
_REMEDIES = {
    "SafeModeException": "HDFS is in safe mode and refuses writes; wait for its end (`hdfs dfsadmin -safemode get`), "
    "or find out why DataNodes are missing",
    _DOWN: "HDFS does not answer; check that its NameNode is up, and that host and port are right",
    "AccessControlException": "this user lacks the permission; ask for it, or set HADOOP_USER_NAME",
}


class _DataNodeError(OSError):
    """A DataNode does not answer; on a retry the NameNode may choose another."""


class HdfsFiles:
    """Files of one HDFS, given as `hdfs://host:port` or `hdfs://nameservice`."""

    def __init__(self, authority: str) -> None:
        self._authority = authority

    @property
    def _client(self) -> Client:
        return _client(self._authority, os.getpid())

    def walk(self, folder: str) -> Iterator[FileEntry]:
        """Every file below a folder, without hidden ones."""
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
        """Size and time of change of a file."""
        with _named(uri):
            return self._entry(self._client.get_file_info(self._path(uri)))

    def exists(self, uri: str) -> bool:
        """Whether a file or folder exists."""
        try:
            self.stat(uri)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files and folders in a folder."""
        path = self._path(folder)
        try:
            with _named(folder):
                paths = [entry.path for entry in self._client.list_status(path)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name.rpartition("/")[2] for name in paths if name != path)  # a file lists itself

    def open(self, uri: str) -> BinaryIO:
        """Opens a file for reading."""
        with _named(uri):
            return io.BufferedReader(_Reader(self._client, self._path(uri)), _BLOCK)

    def read(self, uri: str) -> bytes:
        """Reads a whole file."""
        with _named(uri):
            return self._client.read(self._path(uri)).read()

    def write(self, uri: str, data: bytes) -> None:
        """Writes a file atomically."""
        self._put(uri, io.BytesIO(data), overwrite=True)

    def create(self, uri: str, data: bytes) -> None:
        """Creates a file that must not exist yet."""
        self._put(uri, io.BytesIO(data), overwrite=False)

    def upload(self, local: str, uri: str) -> None:
        """Copies a local file to a URI, atomically."""
        with Path(local).open("rb") as file:
            self._put(uri, file, overwrite=True)

    def delete(self, uri: str) -> None:
        """Deletes a file, or a folder with its content."""
        with _named(uri), suppress(FileNotFoundError):
            self._client.delete(self._path(uri), recursive=True)

    def _put(self, uri: str, source: BinaryIO, overwrite: bool) -> None:
        """Writes a hidden file beside the target and renames it to the target, which is atomic."""
        path = self._path(uri)
        with _named(uri):
            draft = Retrying(
                retry=retry_if_exception(_is_transient),
                wait=wait_exponential_jitter(multiplier=0.5, max=8),
                stop=stop_after_delay(_WRITE_S),
                reraise=True,
            )(self._draft, path, source)
            with self._deleted_on_failure(draft):
                self._client.rename(draft, path, overwrite)

    def _draft(self, path: str, source: BinaryIO) -> str:
        """Writes a hidden file beside a path. It fails with a DataNode that dies; a retry avoids that DataNode."""
        folder, _, name = path.rpartition("/")
        draft = f"{folder}/.{name[-40:]}.{uuid.uuid4().hex}"
        source.seek(0)
        with self._deleted_on_failure(draft):
            file = self._client.create(draft, WriteOptions(create_parent=True))
            with _to_datanodes(), file:
                shutil.copyfileobj(source, file, 4 * _BLOCK)
        return draft

    @contextmanager
    def _deleted_on_failure(self, draft: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if _DOWN not in str(error) or isinstance(error, _DataNodeError):  # else the deletion would wait in vain
                with suppress(OSError, RuntimeError):  # the first error is the one to report
                    self._client.delete(draft)
            raise

    def _path(self, uri: str) -> str:
        return uri.removeprefix(self._authority).rstrip("/") or "/"

    def _entry(self, status: object) -> FileEntry:
        return FileEntry(f"{self._authority}{status.path}", status.length, status.modification_time * 1000)  # type: ignore[attr-defined]


class _Reader(io.RawIOBase):
    """A raw stream over an HDFS file, to be wrapped in a buffer."""

    def __init__(self, client: Client, path: str) -> None:
        self._file, self._place = client.read(path), 0
        self._length = len(self._file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = max(0, min(len(buffer), self._length - self._place))
        if size:
            buffer[:size] = self._file.read_range(self._place, size)
            self._place += size
        return size


@functools.cache
def _client(authority: str, process: int) -> Client:
    """One client for each process, because its threads do not survive a fork."""
    shipped = _YARN_CONF if Path(_YARN_CONF).is_dir() else None
    return Client(authority, _FAILOVER, config_dir=os.environ.get("HADOOP_CONF_DIR") or shipped)


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed: a DataNode or a connection failed, not the request."""
    transient = isinstance(error, OSError | RuntimeError) and any(name in str(error) for name in _TRANSIENT)
    return transient or isinstance(error, _DataNodeError)


@contextmanager
def _to_datanodes() -> Iterator[None]:
    """Marks errors of DataNodes: the NameNode has created the file, so only a DataNode refuses a connection."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if _DOWN in str(error):
            raise _DataNodeError(f"no DataNode accepts its blocks ({error}); see `hdfs dfsadmin -report`") from None
        raise


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Turns errors of hdfs-native into OSError, with a remedy if one is known."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise _explained(uri, error) from None


def _explained(uri: str, error: Exception) -> OSError:
    message = str(error)
    if isinstance(error, _DataNodeError):
        return OSError(f"{uri}: {message}")
    if "is not a directory" in message:  # HDFS reports it as a missing permission
        return NotADirectoryError(f"{uri}: a part of it is a file, not a folder")
    remedy = next((text for name, text in _REMEDIES.items() if name in message), "")
    kinds = {"FileNotFound": FileNotFoundError, "AlreadyExists": FileExistsError, "NotDirectory": NotADirectoryError}
    general = type(error) if isinstance(error, OSError) else OSError
    kind = next((subclass for name, subclass in kinds.items() if name in message), general)
    return kind(f"{uri}: {remedy or message}")
