"""Packed sources: the members of a .tar or .parquet, and the bytes of any listed photo by place."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from likeness import stores, uris
from likeness.errors import UsageError
from likeness.images import SUFFIXES, BadImage
from likeness.settings import Limits
from likeness.stores import FileEntry, Files


@dataclass(frozen=True)
class Found:
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
    attributes: dict[str, str] = field(default_factory=dict)


def is_packed(path: str) -> bool:
    """Whether a path names a packed file.

    Raises:
        UsageError: a compressed tar, which cannot be read by place.
    """
    lower = path.lower()
    if lower.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise UsageError(f"{path} is a compressed tar, which cannot be read by place; unpack it to a plain .tar")
    return lower.endswith((".tar", ".parquet"))


def members(files: Files, entry: FileEntry, rejected: list[tuple[str, BadImage]]) -> Iterator[Found]:
    """The photos of one packed file; what cannot be used is added to `rejected`."""
    list_members = _tar_members if entry.uri.lower().endswith(".tar") else _parquet_rows
    try:
        with files.open(entry.uri) as file:
            yield from list_members(file, entry, rejected)
    except (tarfile.TarError, pa.ArrowException, OSError, EOFError) as error:
        rejected.append((entry.uri, BadImage("broken_archive", str(error))))


def _tar_members(file: BinaryIO, entry: FileEntry, rejected: list[tuple[str, BadImage]]) -> Iterator[Found]:
    with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as tar:
        for member in tar:
            uri = f"{entry.uri}!/{member.name.removeprefix('./')}"
            if member.isdir() or not member.name.lower().endswith(tuple(SUFFIXES)):
                continue
            if not uris.inside(member.name):
                rejected.append((uri, BadImage("outside_source", f"member {member.name!r} leaves the tar")))
            elif not member.isfile():
                rejected.append((uri, BadImage("not_a_file", "a link or device in a tar is not followed")))
            else:
                yield Found(uri, member.size, entry.mtime, entry.uri, member.offset_data)


def _parquet_rows(file: BinaryIO, entry: FileEntry, rejected: list[tuple[str, BadImage]]) -> Iterator[Found]:
    table = pq.ParquetFile(file)
    names = table.schema_arrow.names
    photo = _bytes_column(table.schema_arrow)
    missing = [name for name in ("product_id", "category") if name not in names]
    if not photo or missing:
        wanted = "product_id, category and a binary column bytes or image"
        rejected.append((entry.uri, BadImage("broken_archive", f"has {', '.join(names)}; needs {wanted}")))
        return
    row = 0
    for batch in table.iter_batches(columns=[name for name in names if name != photo]):
        for values in batch.to_pylist():
            product_id, category = values.pop("product_id"), values.pop("category")
            uri = f"{entry.uri}!/{row}"
            if product_id and category:
                facts = {key: str(value) for key, value in values.items() if value is not None}
                yield Found(uri, entry.length, entry.mtime, entry.uri, row, str(product_id), str(category), facts)
            else:
                rejected.append((uri, BadImage("bad_row", "no product_id or no category")))
            row += 1


def _bytes_column(schema: pa.Schema) -> str:
    return next(
        (name for name in ("bytes", "image") if name in schema.names and pa.types.is_binary(schema.field(name).type)),
        "",
    )


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
                return stores.files(uri).read(uri)
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

    def _open(self, container: str) -> BinaryIO:
        if self._file is None or container != self._container:
            if self._file:
                self._file.close()
            self._file, self._container, self._group = (
                stores.files(container).open(container),
                container,
                None,
            )
        return self._file

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
