"""Packed sources: the members of a .tar or .parquet, and the bytes of any listed photo by place."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from likeness import storage
from likeness.catalog.sources.catalogues import row_of
from likeness.core import uris
from likeness.core.settings import Limits
from likeness.images.image import SUFFIXES, BadImage
from likeness.storage import FileEntry, Files

_ROW_NEEDS = ("product_id", "category")


@dataclass(frozen=True)
class SourceImage:
    """One photo of a source: where it is, and what a packed file says of it.

    `position` is the byte offset in a tar, the row number in a Parquet file. `length` and `mtime` tell
    whether it changed; a Parquet row has those of its file, so that no bytes are read to list it.
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
class Aside:
    """What is not listed: `rejected` are (what, why) pairs for the ledger, `ignored` counts what is no photo."""

    rejected: list[tuple[str, BadImage]] = field(default_factory=list)
    ignored: int = 0

    def reject(self, what: str, reason: str, detail: str) -> None:
        """Adds a row for the ledger."""
        self.rejected.append((what, BadImage(reason, detail)))


def is_packed(path: str) -> bool:
    """Whether a path names a packed file that can be read by place."""
    return path.lower().endswith((".tar", ".parquet"))


def is_compressed(path: str) -> bool:
    """Whether a path names a compressed tar, which cannot be read by place."""
    return path.lower().endswith((".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"))


def members(files: Files, entry: FileEntry, aside: Aside) -> Iterator[SourceImage]:
    """The photos of one packed file; what cannot be used is put aside."""
    list_members = _tar_members if entry.uri.lower().endswith(".tar") else _parquet_rows
    try:
        with files.open(entry.uri) as file:
            yield from list_members(file, entry, aside)
    except (tarfile.TarError, pa.ArrowException, OSError, EOFError, ValueError) as error:
        aside.reject(entry.uri, "broken_archive", str(error))


def _tar_members(file: BinaryIO, entry: FileEntry, aside: Aside) -> Iterator[SourceImage]:
    with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
        for member in tar:
            uri = f"{entry.uri}!/{uris.plain(member.name)}"
            if member.isdir():
                continue
            if not member.name.lower().endswith(tuple(SUFFIXES)):
                aside.ignored += 1
            elif not uris.inside(member.name):
                aside.reject(uri, "outside_source", f"member {member.name!r} leaves the tar")
            elif not member.isfile() or member.issparse():
                aside.reject(uri, "not_a_file", "a link, a device or a sparse file in a tar is not read")
            else:
                yield SourceImage(uri, member.size, entry.mtime, entry.uri, member.offset_data)
        # tarfile takes a torn header for the end; the true end is a block of zeros
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"broken at byte {tar.offset}; what comes before is listed")


def _parquet_rows(file: BinaryIO, entry: FileEntry, aside: Aside) -> Iterator[SourceImage]:
    table = pq.ParquetFile(file)
    names = table.schema_arrow.names
    photo = _bytes_column(table.schema_arrow)
    if not photo or any(name not in names for name in _ROW_NEEDS):
        wanted = "product_id, category and a binary column bytes or image"
        aside.reject(entry.uri, "broken_archive", f"has {', '.join(names)}; needs {wanted}")
        return
    number = 0
    for batch in table.iter_batches(columns=[name for name in names if name != photo]):
        for values in batch.to_pylist():
            row, uri = row_of(number, values, _ROW_NEEDS), f"{entry.uri}!/{number}"
            if row.error:
                aside.reject(uri, "bad_row", row.error)
            else:
                facts = (row.product_id, row.category, row.active, row.attributes)
                yield SourceImage(uri, entry.length, entry.mtime, entry.uri, number, *facts)
            number += 1


def _bytes_column(schema: pa.Schema) -> str:
    binary = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    return next((name for name in ("bytes", "image") if name in binary), "")


class Reader:
    """Reads listed photos; keeps the packed file and row group of the last one open."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._container = ""
        self._file: BinaryIO | None = None
        self._group: tuple[int, int, pa.ChunkedArray] | None = None

    def read(self, uri: str, length: int, container: str, position: int) -> bytes:
        """The bytes of one photo.

        Raises:
            BadImage: missing_file, unreadable or too_large_bytes; a too long file is not opened.
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
            raise BadImage("missing_file", "gone since it was listed") from None
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
        """Closes what is open; a later read opens it again."""
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
    """First row, row after the last, and photos of the row group that holds a row."""
    start = 0
    for group in range(table.num_row_groups):
        end = start + table.metadata.row_group(group).num_rows
        if row < end:
            column = _bytes_column(table.schema_arrow)
            return start, end, table.read_row_group(group, columns=[column])[column]
        start = end
    raise OSError(f"no row {row}: the file has {start}")
