"""Stores: ports for files and for keyed vectors, opened by URL scheme.

`files(uri)` and `keyed(uri)` are the only doors; each implementation is a file here.
"""

from likeness import uris
from likeness.errors import UsageError
from likeness.stores.ports import FileEntry, Files, KeyedStore, Product


def files(uri: str) -> Files:
    """The file store that a URI belongs to.

    Raises:
        UsageError: a scheme no store knows.
    """
    scheme = uris.scheme(uri)
    if scheme == "file":
        from likeness.stores.files_local import LocalFiles

        return LocalFiles()
    raise UsageError(f"{uri}: no file store for {scheme}://; known: file://")


def keyed(uri: str) -> KeyedStore:
    """The keyed store at a URI, opened and ready.

    Raises:
        UsageError: a scheme no store knows.
        ServiceError: the store cannot be reached.
    """
    scheme = uris.scheme(uri)
    if scheme == "sqlite":
        from likeness.stores.keyed_sqlite import SqliteStore

        return SqliteStore(uri)
    raise UsageError(f"keyed.uri = {uri!r}: no keyed store for {scheme}://; known: sqlite:///path")


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


__all__ = ["FileEntry", "Files", "KeyedStore", "Product", "files", "keyed", "keyed_uri"]
