"""Stores: ports for files and for keyed vectors, opened by URL scheme.

`files(uri)` and `keyed(uri)` are the only doors; each implementation is a file here.
"""

import hashlib
import uuid
from pathlib import Path

from likeness.core import uris
from likeness.core.errors import DataError, UsageError
from likeness.storage.ports import FileEntry, Files, KeyedStore, Product


def files(uri: str) -> Files:
    """The file store that a URI belongs to.

    Raises:
        UsageError: a scheme no store knows.
    """
    scheme = uris.scheme(uri)
    if scheme == "file":
        from likeness.storage.files_local import LocalFiles

        return LocalFiles()
    if scheme == "hdfs":
        from likeness.storage.files_hdfs import HdfsFiles

        return HdfsFiles(uris.authority(uri))
    raise UsageError(f"{uri}: no file store for {scheme}://; known: file:// and hdfs://")


def keyed(uri: str, create: bool = False) -> KeyedStore:
    """The keyed store at a URI, opened and ready.

    Args:
        uri: `sqlite:///path` or `hbase://host:port[,host:port...]/name`.
        create: makes what the store lacks: the file, the tables.

    Raises:
        UsageError: a URI no store knows.
        ServiceError: the store cannot be reached, or was never made.
    """
    scheme = uris.scheme(uri)
    if scheme == "sqlite":
        from likeness.storage.keyed_sqlite import SqliteStore

        return SqliteStore(uri, create)
    if scheme == "hbase":
        from likeness.storage.keyed_hbase import HbaseStore

        return HbaseStore(uri, create)
    raise UsageError(
        f"keyed.uri = {uri!r}: no keyed store for {scheme}://; known: sqlite:///path, hbase://host:port/name"
    )


def keyed_uri(configured: str, root: str) -> str:
    """The keyed store's URI: as configured, or a SQLite file in the root.

    Raises:
        UsageError: the root is not local and nothing is configured.
    """
    if configured:
        return configured
    if uris.scheme(uris.canonical(root)) != "file":
        raise UsageError(f"root {root} is not local, so SQLite cannot be its keyed store; set keyed.uri")
    return f"sqlite://{uris.local_path(root)}/keyed.sqlite"


def local_copy(uri: str, folder: str) -> Path:
    """A file on this machine: itself if it is local, else its copy in a folder, made there if it is missing.

    A copy is named by length and time of change, so that a file that was replaced is copied anew.

    Raises:
        OSError: it is not there, cannot be read, or the folder cannot be written.
    """
    if uris.scheme(uri) == "file":
        return uris.local_path(uri)
    entry = files(uri).stat(uri)
    told = hashlib.sha256(f"{entry.uri} {entry.length} {entry.mtime}".encode()).hexdigest()[:16]
    path = Path(folder).expanduser() / f"{told}-{uri.rpartition('/')[2]}"
    if not path.exists():
        fetch(uri, path)
    return path


def fetch(uri: str, path: Path, sha256: str = "") -> None:
    """Copies a file to a path of this machine, which appears whole.

    Args:
        uri: where it is.
        path: where it is wanted; its folder is made.
        sha256: the checksum it must have; empty for any.

    Raises:
        OSError: it cannot be read, or the path not be written.
        DataError: it has another checksum.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name[-40:]}.{uuid.uuid4().hex}")
    digest = hashlib.sha256()
    try:
        with files(uri).open(uri) as source, draft.open("wb") as target:
            while block := source.read(1 << 22):
                digest.update(block)
                target.write(block)
        if sha256 and digest.hexdigest() != sha256:
            raise DataError(f"{uri} has not the checksum {sha256[:12]} but {digest.hexdigest()[:12]}")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


__all__ = ["FileEntry", "Files", "KeyedStore", "Product", "fetch", "files", "keyed", "keyed_uri", "local_copy"]
