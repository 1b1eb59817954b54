"""Reads data files of tables as the Parquet files they are, without the table's metadata."""

import itertools
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError
from likeness.storage.items import WHOLE_PHOTO, Item

_BATCH_ROWS = 512
_BATCH_PHOTOS = 16


def whole_photos(uri: str) -> Iterator[list[str]]:
    """Reads the image_ids of the whole photos of a data file of `features` or `images`, in batches.

    Raises:
        OSError: the file cannot be read.
    """
    uri = uris.canonical(uri)
    with storage.files(uri).open(uri) as file, pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(columns=["image_id", "region"]):
            if "region" in batch.schema.names:
                batch = batch.filter(pc.equal(pc.fill_null(batch.column("region"), WHOLE_PHOTO), WHOLE_PHOTO))
            yield batch.column("image_id").to_pylist()


def vectors(uri: str, space: str) -> Iterator[tuple[list[str], np.ndarray]]:
    """Reads keys of items (`Item.key`) and their vectors, float32 (n, dim), of a data file of `features`, in batches.

    Raises:
        OSError: the file cannot be read.
        DataError: vectors of several lengths, or of another space.
    """
    uri = uris.canonical(uri)
    with storage.files(uri).open(uri) as file, pq.ParquetFile(file) as parquet:
        columns = [name for name in ("image_id", "space", "vector", "region") if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
            lists = batch.column("vector")
            lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
            if len(lengths) != 1 or pc.unique(batch.column("space")).to_pylist() != [space]:
                raise DataError(f"{uri} does not hold vectors of {space} alone, of one length; the table is damaged")
            yield _item_keys(batch), np.asarray(lists.flatten()).reshape(-1, lengths[0])


def _item_keys(batch: pa.RecordBatch) -> list[str]:
    """The key of each row's item; files of older versions have no column `region`."""
    image_ids: list[str] = batch.column("image_id").to_pylist()
    if "region" not in batch.schema.names or not pc.any(pc.not_equal(batch["region"], WHOLE_PHOTO)).as_py():
        return image_ids
    regions = batch.column("region").to_pylist()
    return [Item(*pair).key for pair in zip(image_ids, regions, strict=True)]


def row_groups(uri: str) -> list[int]:
    """Number of rows of each row group of a data file.

    Raises:
        OSError: the file cannot be read.
    """
    uri = uris.canonical(uri)
    with storage.files(uri).open(uri) as file, pq.ParquetFile(file) as parquet:
        return [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]


def photos(uri: str, group: int, rows: Collection[int]) -> Iterator[tuple[str, bytes]]:
    """Reads image_id and encoded bytes of some rows of a row group of `images`.

    Raises:
        OSError: the file cannot be read.
    """
    numbers, pairs = frozenset(rows), itertools.islice(read_photos(uri, group), max(rows, default=-1) + 1)
    return ((key, data.as_py()) for row, (key, data) in enumerate(pairs) if row in numbers)


def read_photos(uri: str, group: int) -> Iterator[tuple[str, pa.BinaryScalar]]:
    """Reads image_id and encoded bytes of all rows of a row group of `images`.

    Raises:
        OSError: the file cannot be read.
    """
    uri = uris.canonical(uri)
    with storage.files(uri).open(uri) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
        # without Arrow's threads: a caller that reads many photos has a process on each core
        for batch in parquet.iter_batches(_BATCH_PHOTOS, [group], ["image_id", "bytes"], use_threads=False):
            yield from zip(batch.column("image_id").to_pylist(), batch.column("bytes"), strict=True)
