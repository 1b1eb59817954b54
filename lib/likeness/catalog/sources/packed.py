"""Packed sources: lists the photos of .tar and .parquet files, and reads the bytes of a listed photo."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from likeness import storage
from likeness.catalog.sources.catalogues import parse_row
from likeness.core import uris
from likeness.core.settings import Limits
from likeness.images.image import SUFFIXES, BadImage
from likeness.storage import FileEntry, Files

_REQUIRED = ("product_id", "category")
PRODUCT_COLUMNS = (*_REQUIRED, "active", "attributes")
"""The fields of a `SourceImage` that a row of a packed file or of a catalogue gives, in their order."""


@dataclass(frozen=True)
class SourceImage:
    """A photo of a source: where it is, and the product columns that a packed file or the catalogue has of it.

    `position` is the byte offset in a tar, or the row number in a Parquet file. A change of `length` or `mtime` means
    that the photo has changed; a Parquet row has those of its file, so that it is listed without reading its bytes.
    """

    uri: str
    length: int
    mtime: int
    container: str = ""
    position: int = 0
    product_id: str = ""
    category: str = ""
    active: bool = True
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class Skipped:
    """What a listing leaves out: `rejected` pairs (what, reason) for the ledger, and the number of `ignored` files."""

    rejected: list[tuple[str, BadImage]] = field(default_factory=list)
    ignored: int = 0

    def reject(self, what: str, reason: str, detail: str) -> None:
        """Adds a rejected file or row."""
        self.rejected.append((what, BadImage(reason, detail)))


def is_packed(path: str) -> bool:
    """Whether a path is of a packed file, which is read by position."""
    return path.lower().endswith((".tar", ".parquet"))


def is_compressed(path: str) -> bool:
    """Whether a path is of a compressed tar, which cannot be read by position."""
    return path.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"))


def members(files: Files, entry: FileEntry, skipped: Skipped) -> Iterator[SourceImage]:
    """Yields the photos of a packed file, and adds what cannot be used to `skipped`."""
    list_members = _tar_members if entry.uri.lower().endswith(".tar") else _parquet_rows
    try:
        with files.open(entry.uri) as file:
            yield from list_members(file, entry, skipped)
    except (tarfile.TarError, pa.ArrowException, OSError, EOFError, ValueError) as error:
        skipped.reject(entry.uri, "broken_archive", str(error))


def _tar_members(file: BinaryIO, entry: FileEntry, skipped: Skipped) -> Iterator[SourceImage]:
    with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
        for member in tar:
            uri = f"{entry.uri}!/{uris.normalize(member.name)}"
            if member.isdir():
                continue
            if not member.name.lower().endswith(tuple(SUFFIXES)):
                skipped.ignored += 1
            elif not uris.is_inside(member.name):
                skipped.reject(uri, "outside_source", f"member {member.name!r} leaves the tar")
            elif not member.isfile() or member.issparse():
                skipped.reject(uri, "not_a_file", "a link, a device or a sparse file in a tar is not read")
            else:
                yield SourceImage(uri, member.size, entry.mtime, entry.uri, member.offset_data)
        # tarfile takes a broken header for the end of the file, but the end is a block of zeros
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"broken at byte {tar.offset}; the members before it are listed")


def _parquet_rows(file: BinaryIO, entry: FileEntry, skipped: Skipped) -> Iterator[SourceImage]:
    table = pq.ParquetFile(file)
    names = table.schema_arrow.names
    photo = _bytes_column(table.schema_arrow)
    if not photo or any(name not in names for name in _REQUIRED):
        detail = f"has {', '.join(names)}; needs product_id, category and a binary column bytes or image"
        skipped.reject(entry.uri, "broken_archive", detail)
        return
    number = 0
    for batch in table.iter_batches(columns=[name for name in names if name != photo]):
        for values in batch.to_pylist():
            row, uri = parse_row(number, values, _REQUIRED), f"{entry.uri}!/{number}"
            if row.error:
                skipped.reject(uri, "bad_row", row.error)
            else:
                facts = (getattr(row, name) for name in PRODUCT_COLUMNS)
                yield SourceImage(uri, entry.length, entry.mtime, entry.uri, number, *facts)
            number += 1


def _bytes_column(schema: pa.Schema) -> str:
    binary = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    return next((name for name in ("bytes", "image") if name in binary), "")


class Reader:
    """Reads listed photos; keeps the packed file and the row group of the last one open."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._container = ""
        self._file: BinaryIO | None = None
        self._group: tuple[int, int, pa.ChunkedArray] | None = None

    def read(self, uri: str, length: int, container: str, position: int) -> bytes:
        """Reads the bytes of a photo.

        Raises:
            BadImage: missing_file, unreadable or too_large_bytes; too large a file is not opened.
        """
        try:
            if container.lower().endswith(".parquet"):
                return self._parquet(container, position)
            if length > self._limits.max_bytes:
                detail = f"{length} bytes, limits.max_bytes is {self._limits.max_bytes}"
                raise BadImage("too_large_bytes", detail)
            if not container:
                return self._whole(uri)
            file = self._open(container)
            file.seek(position)
            data = file.read(length)
        except FileNotFoundError:
            raise BadImage("missing_file", "deleted after it was listed") from None
        except (OSError, pa.ArrowException) as error:
            raise BadImage("unreadable", str(error)) from None
        if len(data) < length:
            raise BadImage("unreadable", f"the tar ends after {len(data)} of {length} bytes")
        return data

    def _whole(self, uri: str) -> bytes:
        with storage.files(uri).open(uri) as file:
            return file.read(self._limits.max_bytes + 1)  # it may have grown since it was listed

    def _open(self, container: str) -> BinaryIO:
        if self._file is None or container != self._container:
            self.close()
            self._file, self._container = storage.files(container).open(container), container
        return self._file

    def close(self) -> None:
        """Closes the open file; a later read opens one again."""
        if self._file:
            self._file.close()
        self._file, self._group = None, None

    def _parquet(self, container: str, row: int) -> bytes:
        file = self._open(container)
        if self._group is None or not self._group[0] <= row < self._group[1]:
            self._group = _read_group(pq.ParquetFile(file), row)
        start, _, column = self._group
        data: bytes | None = column[row - start].as_py()
        return data or b""


def _read_group(table: pq.ParquetFile, row: int) -> tuple[int, int, pa.ChunkedArray]:
    """Reads the row group of a row: its first row, the row after its last, and its photos."""
    start = 0
    for group in range(table.num_row_groups):
        end = start + table.metadata.row_group(group).num_rows
        if row < end:
            column = _bytes_column(table.schema_arrow)
            return start, end, table.read_row_group(group, columns=[column])[column]
        start = end
    raise OSError(f"no row {row}: the file has {start}")
