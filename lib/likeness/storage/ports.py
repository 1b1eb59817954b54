"""The contracts of the stores: what every implementation does, and which errors it gives."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np

from likeness.storage.items import Item


@dataclass(frozen=True)
class FileEntry:
    """One file: canonical URI, bytes, last change in microseconds since 1970.

    `leaves` marks a link that leads out of the folder that was walked.
    """

    uri: str
    length: int
    mtime: int
    leaves: bool = False


class Files(Protocol):
    """Files by canonical URI. Missing files raise FileNotFoundError, everything else OSError."""

    def walk(self, folder: str) -> Iterator[FileEntry]:
        """Every file below a folder, in the order of their names; hidden ones (`.x`) left out."""
        ...

    def stat(self, uri: str) -> FileEntry:
        """One file's entry."""
        ...

    def exists(self, uri: str) -> bool:
        """Whether a file or folder is there."""
        ...

    def names(self, folder: str) -> list[str]:
        """Names directly in a folder, sorted; empty if the folder is missing."""
        ...

    def open(self, uri: str) -> BinaryIO:
        """A file for reading, seekable."""
        ...

    def read(self, uri: str) -> bytes:
        """A whole file."""
        ...

    def write(self, uri: str, data: bytes) -> None:
        """Replaces a file in one step: a reader sees the old or the new bytes; folders are made."""
        ...

    def create(self, uri: str, data: bytes) -> None:
        """Makes a file that must not be there yet, whole or not at all.

        Raises:
            FileExistsError: it is there; of two at once, exactly one gets this.
        """
        ...

    def upload(self, local: str, uri: str) -> None:
        """Copies a local file to a URI, which appears whole."""
        ...

    def delete(self, uri: str) -> None:
        """Deletes a file, or a folder with all it holds; what is missing is fine."""
        ...


@dataclass(frozen=True)
class Product:
    """Facts of one product for the answer to a query."""

    product_id: str
    category: str
    attributes: Mapping[str, str]
    image_ids: Sequence[str]


class KeyedStore(Protocol):
    """Vectors of items and facts of products, by key. Puts may be repeated; results leave out unknown keys.

    Errors of the store itself are ServiceError.
    """

    writers: int
    """How many processes may write at once."""

    def put_vectors(self, space: str, rows: Iterable[tuple[Item, np.ndarray]]) -> int:
        """Stores the float32 vector of each item; returns how many."""
        ...

    def get_vectors(self, space: str, items: Sequence[Item]) -> dict[Item, np.ndarray]:
        """The stored vectors of some items, float32 (dim,)."""
        ...

    def scan_vectors(self, space: str) -> Iterator[tuple[Item, np.ndarray]]:
        """Every vector of a space, sorted by item."""
        ...

    def delete_vectors(self, space: str, items: Iterable[Item]) -> None:
        """Deletes the vectors of some items in one space."""
        ...

    def delete_images(self, image_ids: Iterable[str]) -> None:
        """Deletes every vector of some images: those of all their regions, in all spaces."""
        ...

    def put_products(self, rows: Iterable[Product]) -> int:
        """Stores facts by product_id; returns how many."""
        ...

    def get_products(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """The stored facts."""
        ...

    def scan_products(self) -> Iterator[Product]:
        """Every product once, in an order of the store's own."""
        ...

    def delete_products(self, product_ids: Sequence[str]) -> None:
        """Deletes products."""
        ...

    def purge(self) -> None:
        """Removes the bytes of what was deleted: at once, or when the store compacts, which this asks for."""
        ...

    def get_mark(self, name: str) -> Any:
        """A JSON value kept with the data, such as how far a load came; None if never set."""
        ...

    def set_mark(self, name: str, value: Any) -> None:
        """Keeps a JSON value with the data."""
        ...

    def close(self) -> None:
        """Gives back connections; may be called twice."""
        ...
