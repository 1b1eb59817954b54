"""The Iceberg tables read without Spark: settings in, Arrow out.   [pyiceberg]"""

import io
import itertools
from collections.abc import Collection, Container, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.table import DataScan, StaticTable, Table
from pyiceberg.types import NestedField, StringType

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Settings
from likeness.storage.items import WHOLE_PHOTO, Item
from likeness.storage.tables import IMAGES
from likeness.storage.tables import Table as Schema

_ROWS = 512
_PHOTOS = 16


def location(settings: Settings) -> str:
    """The warehouse's URI: as configured, or ROOT/tables."""
    return uris.canonical(settings.warehouse.uri or uris.join(uris.canonical(settings.root), "tables"))


class TableReader:
    """The tables of one root, as they are now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.warehouse
        self._location = location(settings)

    def snapshot(self, schema: Schema) -> int | None:
        """The current snapshot of a table; None if it has none yet."""
        table = self._load(schema)
        current = table.current_snapshot() if table else None
        return current.snapshot_id if current else None

    def read(
        self, schema: Schema, columns: Sequence[str] = ("*",), where: str = "", snapshot: int | None = None
    ) -> pa.Table:
        """Rows of a table.

        Args:
            schema: which table.
            columns: their names; all by default.
            where: an Iceberg filter, such as "space = 'alexnet.fc6@1f3a9c02'".
            snapshot: a snapshot of the table; the current one by default.

        Raises:
            UsageError: no such snapshot.
        """
        batches = list(self.batches(schema, columns, where, snapshot))
        fields = schema.arrow() if tuple(columns) == ("*",) else pa.schema([schema.arrow().field(c) for c in columns])
        plain = pa.schema([pa.field(f.name, _plain(f.type)) for f in fields])
        return pa.Table.from_batches(
            [pa.RecordBatch.from_arrays(_cast(b, plain), schema=plain) for b in batches], plain
        )

    def batches(
        self, schema: Schema, columns: Sequence[str] = ("*",), where: str = "", snapshot: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """As `read`, batch by batch."""
        table = self._load(schema)
        if table is None:
            return
        for batch in self._scan(table, schema, columns, where, snapshot).to_arrow_batch_reader():
            yield _with_defaults(batch, schema)

    def photos(self, image_ids: Collection[str]) -> dict[str, bytes]:
        """The bytes of images by image_id; unknown ones are left out."""
        if not image_ids:
            return {}
        wanted = ", ".join(f"'{key}'" for key in image_ids)
        rows = self.read(IMAGES, ("image_id", "bytes"), where=f"image_id IN ({wanted})")
        return dict(zip(rows["image_id"].to_pylist(), rows["bytes"].to_pylist(), strict=True))

    def stream(self, image_ids: Container[str]) -> Iterator[tuple[str, bytes]]:
        """The same one after the other, in the order of the table's files: image_ids and bytes."""
        for uri, _ in self.parts(IMAGES):
            for group in range(len(row_groups(uri))):
                yield from ((key, data.as_py()) for key, data in _photos(uri, group) if key in image_ids)

    def partitions(self, schema: Schema, snapshot: int | None = None) -> list[dict[str, Any]]:
        """The partition values of a table with their row counts, now or at a snapshot, from metadata alone.

        Raises:
            UsageError: no such snapshot.
        """
        table = self._load(schema)
        if table is None or table.current_snapshot() is None:
            return []
        _require(table, schema, snapshot)
        found = table.inspect.partitions(snapshot).select(["partition", "record_count"]).to_pylist()
        return [{**row["partition"], "rows": row["record_count"]} for row in found]

    def files(self, schema: Schema, snapshot: int | None = None) -> list[str]:
        """The data files of a snapshot, as plain Parquet files."""
        return [uri for uri, _ in self.parts(schema, "", snapshot)]

    def parts(self, schema: Schema, where: str = "", snapshot: int | None = None) -> list[tuple[str, int]]:
        """The data files of a snapshot that may hold rows of a filter on partitions, each with its number of rows.

        Raises:
            UsageError: no such snapshot.
        """
        table = self._load(schema)
        if table is None:
            return []
        tasks = self._scan(table, schema, ("*",), where, snapshot).plan_files()
        return [(task.file.file_path, task.file.record_count) for task in tasks]

    def _scan(self, table: Table, schema: Schema, columns: Sequence[str], where: str, snapshot: int | None) -> DataScan:
        _require(table, schema, snapshot)
        scan = table.scan(selected_fields=tuple(columns), snapshot_id=snapshot)
        return scan.filter(where) if where else scan

    def _load(self, schema: Schema) -> Table | None:
        if self._settings.type != "hadoop":
            catalog = load_catalog(
                "likeness", type=self._settings.type, warehouse=self._location, **self._settings.options
            )
            try:
                return _in_present_columns(catalog.load_table((self._settings.namespace, schema.name)), schema)
            except NoSuchTableError:
                return None
        folder = uris.join(self._location, self._settings.namespace, schema.name, "metadata")
        versions = [
            int(name.split(".")[0][1:])
            for name in storage.files(folder).names(folder)
            if name.startswith("v") and name.endswith(".metadata.json")
        ]
        if not versions:
            return None
        # Arrow reads local files best by itself; its own HDFS client would want a JVM
        properties = {} if uris.scheme(folder) == "file" else {"py-io-impl": f"{__name__}.{PortIO.__name__}"}
        table = StaticTable.from_metadata(f"{folder}/v{max(versions)}.metadata.json", properties)
        return _in_present_columns(table, schema)


def _in_present_columns(table: Table, schema: Schema) -> Table:
    """The table as if it and all its snapshots always had the present columns, which an older version named otherwise.

    Iceberg finds columns of files by field id, so that only the metadata in memory is changed.
    """
    columns = schema.field_ids()
    names = {number: column.name for number, column in columns.items()}
    added = [
        NestedField(number, column.name, StringType(), required=False)
        for number, column in columns.items()
        if column.added
    ]
    schemas = []
    for old in table.metadata.schemas:
        fields = [f.model_copy(update={"name": names.get(f.field_id, f.name)}) for f in old.fields]
        fields += [field for field in added if field.field_id not in {f.field_id for f in fields}]
        schemas.append(IcebergSchema(*fields, schema_id=old.schema_id, identifier_field_ids=old.identifier_field_ids))
    specs = []
    for spec in table.metadata.partition_specs:
        parts = [f.model_copy(update={"name": names.get(f.source_id, f.name)}) for f in spec.fields]
        specs.append(PartitionSpec(*parts, spec_id=spec.spec_id))
    table.metadata = table.metadata.model_copy(update={"schemas": schemas, "partition_specs": specs})
    return table


def _with_defaults(batch: pa.RecordBatch, schema: Schema) -> pa.RecordBatch:
    """A batch with the default instead of null in columns that are newer than their rows."""
    for column in schema.columns:
        if column.added and column.name in batch.schema.names:
            place = batch.schema.get_field_index(column.name)
            batch = batch.set_column(
                place, batch.schema.field(place), pc.fill_null(batch.column(place), column.default)
            )
    return batch


def _require(table: Table, schema: Schema, snapshot: int | None) -> None:
    if snapshot is not None and table.snapshot_by_id(snapshot) is None:
        raise UsageError(f"table {schema.name} has no snapshot {snapshot}; `likeness runs show` names them")


def whole_photos(uri: str) -> Iterator[list[str]]:
    """Reads the image_ids of the whole photos of a data file of `features` or `images` as plain Parquet, in batches.

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
    """Reads a data file of `features` as plain Parquet: keys of items (`Item.key`) and vectors, float32 (n, dim).

    Raises:
        OSError: the file cannot be read.
        DataError: vectors of several lengths, or of another space.
    """
    uri = uris.canonical(uri)
    with storage.files(uri).open(uri) as file, pq.ParquetFile(file) as parquet:
        here = [name for name in ("image_id", "space", "vector", "region") if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(_ROWS, columns=here):
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
    """Rows of each row group of a data file.

    Raises:
        OSError: the file cannot be read.
    """
    uri = uris.canonical(uri)
    with storage.files(uri).open(uri) as file, pq.ParquetFile(file) as parquet:
        return [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]


def photos(uri: str, group: int, rows: Collection[int]) -> Iterator[tuple[str, bytes]]:
    """Some photos of a row group of a data file of `images`, read as the plain Parquet it is: image_ids and bytes.

    Raises:
        OSError: the file cannot be read.
    """
    wanted, found = frozenset(rows), itertools.islice(_photos(uri, group), max(rows, default=-1) + 1)
    return ((key, data.as_py()) for row, (key, data) in enumerate(found) if row in wanted)


def _photos(uri: str, group: int) -> Iterator[tuple[str, pa.BinaryScalar]]:
    uri = uris.canonical(uri)
    with storage.files(uri).open(uri) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
        # no threads of Arrow's: whoever reads many photos has a process on each core
        for batch in parquet.iter_batches(_PHOTOS, [group], ["image_id", "bytes"], use_threads=False):
            yield from zip(batch.column("image_id").to_pylist(), batch.column("bytes"), strict=True)


class PortIO(FileIO):
    """pyiceberg's files, read through the files port."""

    def new_input(self, location: str) -> InputFile:
        """A file to read."""
        return _PortInput(location)

    def new_output(self, location: str) -> OutputFile:
        """Nothing is written here: Spark writes the tables."""
        raise io.UnsupportedOperation(f"{location}: tables are written by Spark alone")

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Nothing is deleted here: Spark writes the tables."""
        raise io.UnsupportedOperation(f"{location}: tables are written by Spark alone")


class _PortInput(InputFile):
    def __len__(self) -> int:
        return storage.files(self.location).stat(self.location).length

    def exists(self) -> bool:
        return storage.files(self.location).exists(self.location)

    def open(self, seekable: bool = True) -> InputStream:
        return storage.files(self.location).open(self.location)


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind.value_type) if pa.types.is_list(kind) else kind


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> list[pa.Array]:
    return [batch.column(f.name).cast(f.type) for f in schema]
