"""The protocols of file stores and keyed stores: what every implementation does, and which errors it raises."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np

from likeness.storage.items import Item


@dataclass(frozen=True)
class FileEntry:
    """A file: canonical URI, size in bytes, time of change in microseconds since 1970.

    `outside` is set for a link to a file outside the folder that was walked.
    """

    uri: str
    length: int
    mtime: int
    outside: bool = False


class Files(Protocol):
    """A file store; files are named by canonical URI. A missing file raises FileNotFoundError, any failure OSError."""

    def walk(self, folder: str) -> Iterator[FileEntry]:
        """Every file below a folder, sorted by name in each folder, without hidden ones (`.x`)."""

    def stat(self, uri: str) -> FileEntry:
        """Size and time of change of a file."""

    def exists(self, uri: str) -> bool:
        """Whether a file or folder exists."""

    def names(self, folder: str) -> list[str]:
        """Sorted names of the files and folders in a folder; none if the folder is missing."""

    def open(self, uri: str) -> BinaryIO:
        """Opens a file for reading; it is seekable."""

    def read(self, uri: str) -> bytes:
        """Reads a whole file."""

    def write(self, uri: str, data: bytes) -> None:
        """Writes a file atomically: a reader sees the old or the new bytes. Folders are created."""

    def create(self, uri: str, data: bytes) -> None:
        """Creates a file atomically.

        Raises:
            FileExistsError: the file exists. Of two concurrent calls exactly one succeeds.
        """

    def upload(self, local: str, uri: str) -> None:
        """Copies a local file to a URI, atomically."""

    def delete(self, uri: str) -> None:
        """Deletes a file, or a folder with its content; a missing one is no error."""


@dataclass(frozen=True)
class Product:
    """Facts of a product for search results."""

    product_id: str
    category: str
    attributes: Mapping[str, str]
    image_ids: Sequence[str]


class KeyedStore(Protocol):
    """A store of vectors by item, and of product facts by product_id, in which a put replaces earlier values.

    Results leave out unknown keys. A failure of the store raises ServiceError.
    """

    writers: int
    """Number of processes that may write at the same time."""
    embedded: bool
    """Whether it is a file of this machine: reads wait for nobody else."""

    def put_vectors(self, space: str, rows: Iterable[tuple[Item, np.ndarray]]) -> int:
        """Stores the float32 vector of each item; returns how many."""

    def get_vectors(self, space: str, items: Sequence[Item]) -> dict[Item, np.ndarray]:
        """The stored vectors of some items, float32 (dim,)."""

    def scan_vectors(self, space: str) -> Iterator[tuple[Item, np.ndarray]]:
        """Every vector of a space, sorted by item."""

    def delete_vectors(self, space: str, items: Iterable[Item]) -> None:
        """Deletes the vectors of some items in one space."""

    def delete_images(self, image_ids: Iterable[str]) -> None:
        """Deletes every vector of some images: those of all their regions, in all spaces."""

    def put_products(self, rows: Iterable[Product]) -> int:
        """Stores the facts of each product; returns how many."""

    def get_products(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """The stored facts of some products."""

    def scan_products(self) -> Iterator[Product]:
        """Every product once, in any order."""

    def delete_products(self, product_ids: Sequence[str]) -> None:
        """Deletes products."""

    def purge(self) -> None:
        """Removes deleted data from disk: at once, or by a compaction that this call requests."""

    def get_mark(self, name: str) -> Any:
        """A JSON value stored with the data, such as the last loaded snapshot; None if it was never set."""

    def set_mark(self, name: str, value: Any) -> None:
        """Stores a JSON value with the data."""

    def close(self) -> None:
        """Closes connections; may be called twice."""
