"""Storage: file stores, keyed stores, tables, leases, run history and artifacts.

`files(uri)` and `keyed(uri)` open the store of a URI by its scheme.
"""

import hashlib
import uuid
from pathlib import Path

from likeness.core import uris
from likeness.core.errors import DataError, MissingRootError, ServiceError, UsageError
from likeness.storage import hbase_layout
from likeness.storage.ports import FileEntry, Files, KeyedStore, Product

_KEYED_FORMS = f"sqlite:///path, {hbase_layout.FORM}"


def files(uri: str) -> Files:
    """The file store of a URI.

    Raises:
        UsageError: the scheme is unknown.
    """
    scheme = uris.scheme(uri)
    if scheme == "file":
        from likeness.storage.files_local import LocalFiles

        return LocalFiles()
    if scheme == "hdfs":
        from likeness.storage.files_hdfs import HdfsFiles

        return HdfsFiles(uris.authority(uri))
    raise UsageError(f"{uri}: no file store for {scheme}://; known: file:// and hdfs://")


def check_root(root: str) -> None:
    """Checks that a root, a path or URI, is a folder that can be read.

    Raises:
        MissingRootError: there is no such folder.
        UsageError: the scheme is unknown, or the root is a file.
        ServiceError: its file store does not answer, or refuses.
    """
    uri = uris.canonical(root)
    store = files(uri)
    try:
        there = store.exists(uri)
        if there and not store.names(uri):
            next(iter(store.walk(uri)), None)  # which tells an empty folder from a file
    except NotADirectoryError:
        raise UsageError(f"root {root} is a file", "name a folder with --root") from None
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{uri}: ")
        raise ServiceError(f"root {root} cannot be read: {reason}", "name another with --root") from None
    if not there:
        raise MissingRootError(
            f"root {root} does not exist", "name another with --root, or fill this one with ./spark-submit.sh nightly"
        )


def keyed(uri: str, create: bool = False) -> KeyedStore:
    """Opens the keyed store of a URI.

    Args:
        uri: `sqlite:///path` or `hbase://host:port[,host:port...]/name`.
        create: whether to create the file or the tables if they are missing.

    Raises:
        UsageError: the URI is not understood.
        ServiceError: the store cannot be reached, or does not exist.
    """
    check_keyed_uri(uri)
    if uris.scheme(uri) == "hbase":
        from likeness.storage.keyed_hbase import HbaseStore

        return HbaseStore(uri, create)
    from likeness.storage.keyed_sqlite import SqliteStore

    return SqliteStore(uri, create)


def check_keyed_uri(uri: str) -> None:
    """Checks the form of a keyed store's URI, without opening the store.

    Raises:
        UsageError: the URI is not understood.
    """
    scheme = uris.scheme(uri)
    if scheme == "hbase":
        hbase_layout.parse_uri(uri)
    elif scheme != "sqlite":
        raise UsageError(f"keyed.uri = {uri!r}: no keyed store for {scheme}://; known: {_KEYED_FORMS}")
    elif not uri.startswith("sqlite:///"):
        raise UsageError(f"keyed.uri = {uri!r} names no absolute path; write it as sqlite:///path")


def keyed_uri(configured: str, root: str) -> str:
    """The URI of the keyed store: as configured, or a SQLite file in the root.

    Raises:
        UsageError: no URI is configured, and the root is not local.
    """
    if configured:
        return configured
    if uris.scheme(uris.canonical(root)) != "file":
        raise UsageError(f"root {root} is not local, so SQLite cannot be its keyed store; set keyed.uri")
    return f"sqlite://{uris.local_path(root)}/keyed.sqlite"


def local_copy(uri: str, folder: str) -> Path:
    """A local path of a file: its own if it is local, else that of a copy in a folder, made if missing.

    The copy is named by size and time of change, so that a file that was replaced is copied again.

    Raises:
        OSError: the file cannot be read, or the folder cannot be written.
    """
    if uris.scheme(uri) == "file":
        return uris.local_path(uri)
    entry = files(uri).stat(uri)
    version = hashlib.sha256(f"{entry.uri} {entry.length} {entry.mtime}".encode()).hexdigest()[:16]
    path = Path(folder).expanduser() / f"{version}-{uri.rpartition('/')[2]}"
    if not path.exists():
        fetch(uri, path)
    return path


def fetch(uri: str, path: Path, sha256: str = "") -> None:
    """Copies a file to a local path in one step: the path holds the whole file or none.

    Args:
        uri: the file.
        path: the copy; its folder is created.
        sha256: the required checksum; empty for any.

    Raises:
        OSError: the file cannot be read, or the path cannot be written.
        DataError: the checksum is another.
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
            raise DataError(f"{uri} has checksum {digest.hexdigest()[:12]}, not {sha256[:12]}")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


__all__ = [
    "FileEntry",
    "Files",
    "KeyedStore",
    "Product",
    "check_keyed_uri",
    "check_root",
    "fetch",
    "files",
    "keyed",
    "keyed_uri",
    "local_copy",
]
