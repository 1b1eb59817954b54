"""Reads the Iceberg tables of a root without Spark, as Arrow.   [pyiceberg]"""

import datetime
import io
import re
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema as IcebergSchema
from pyiceberg.table import DataScan, StaticTable, Table
from pyiceberg.types import NestedField, StringType

from likeness import storage
from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.storage.data_files import read_photos, row_groups
from likeness.storage.tables import IMAGES
from likeness.storage.tables import Table as Schema

_METADATA = re.compile(r"v(\d+)\.metadata\.json")


def location(settings: Settings) -> str:
    """URI of the warehouse, the folder of the tables: as configured, or ROOT/tables."""
    return uris.canonical(settings.warehouse.uri or uris.join(uris.canonical(settings.root), "tables"))


@dataclass(frozen=True)
class Partition:
    """A partition of a table and its number of rows. A value by which the table is not partitioned is left empty."""

    rows: int
    space: str = ""
    ingest_date: datetime.date | None = None


class TableReader:
    """Reads the tables of one root; each call reads the table as it is then."""

    def __init__(self, settings: Settings) -> None:
        self._warehouse = settings.warehouse
        self._location = location(settings)

    def snapshot(self, schema: Schema) -> int | None:
        """The current snapshot of a table; None if it has none yet."""
        table = self._load(schema)
        current = table.current_snapshot() if table else None
        return current.snapshot_id if current else None

    def read(
        self, schema: Schema, columns: Sequence[str] = ("*",), where: str = "", snapshot: int | None = None
    ) -> pa.Table:
        """Reads rows of a table.

        Args:
            schema: which table.
            columns: their names; all by default.
            where: an Iceberg filter, such as "space = 'alexnet.fc6@1f3a9c02'".
            snapshot: a snapshot of the table; the current one by default.

        Raises:
            UsageError: no such snapshot.
        """
        names = [column.name for column in schema.columns] if tuple(columns) == ("*",) else columns
        types = {column.name: column.type for column in schema.columns}
        plain = pa.schema([(name, types[name]) for name in names])
        batches = self.batches(schema, columns, where, snapshot)
        return pa.Table.from_batches([batch.select(plain.names).cast(plain) for batch in batches], plain)

    def batches(
        self, schema: Schema, columns: Sequence[str] = ("*",), where: str = "", snapshot: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Reads rows as `read` does, one batch after the other."""
        table = self._load(schema, snapshot)
        if table is None:
            return
        for batch in _scan(table, columns, where, snapshot).to_arrow_batch_reader():
            yield _with_defaults(batch, schema)

    def photos(self, image_ids: Collection[str]) -> dict[str, bytes]:
        """Encoded bytes of some images by image_id; an image that is not in the table is left out."""
        if not image_ids:
            return {}
        ids = ", ".join(f"'{key}'" for key in image_ids)
        rows = self.read(IMAGES, ("image_id", "bytes"), where=f"image_id IN ({ids})")
        return dict(zip(rows["image_id"].to_pylist(), rows["bytes"].to_pylist(), strict=True))

    def stream(self, image_ids: Container[str]) -> Iterator[tuple[str, bytes]]:
        """Reads image_id and encoded bytes of some images, one after the other, in the order of the data files."""
        for uri, _ in self.parts(IMAGES):
            for group in range(len(row_groups(uri))):
                yield from ((key, data.as_py()) for key, data in read_photos(uri, group) if key in image_ids)

    def partitions(self, schema: Schema, snapshot: int | None = None) -> list[Partition]:
        """The partitions of a table, now or at a snapshot, read from metadata alone.

        Raises:
            UsageError: no such snapshot.
        """
        table = self._load(schema, snapshot)
        if table is None or table.current_snapshot() is None:
            return []
        rows = table.inspect.partitions(snapshot).select(["partition", "record_count"]).to_pylist()
        return [Partition(row["record_count"], **row["partition"]) for row in rows]

    def parts(self, schema: Schema, where: str = "", snapshot: int | None = None) -> list[tuple[str, int]]:
        """(URI, number of rows) of each Parquet file of a snapshot, but for partitions that a filter excludes.

        Raises:
            UsageError: no such snapshot.
        """
        table = self._load(schema, snapshot)
        if table is None:
            return []
        tasks = _scan(table, ("*",), where, snapshot).plan_files()
        return [(task.file.file_path, task.file.record_count) for task in tasks]

    def _load(self, schema: Schema, snapshot: int | None = None) -> Table | None:
        """A table in the present columns, if it exists; it must have the snapshot."""
        table = self._open(schema)
        if table and snapshot is not None and table.snapshot_by_id(snapshot) is None:
            raise UsageError(f"table {schema.name} has no snapshot {snapshot}", "`likeness runs show` names them")
        return table and _in_present_columns(table, schema)

    def _open(self, schema: Schema) -> Table | None:
        warehouse = self._warehouse
        if warehouse.type != "hadoop":
            catalog = load_catalog("likeness", type=warehouse.type, warehouse=self._location, **warehouse.options)
            try:
                return catalog.load_table((warehouse.namespace, schema.name))
            except NoSuchTableError:
                return None
        folder = uris.join(self._location, warehouse.namespace, schema.name, "metadata")
        matches = map(_METADATA.fullmatch, storage.files(folder).names(folder))
        latest = max((int(match[1]) for match in matches if match), default=None)
        if latest is None:
            return None
        # Arrow's own reader is best for local files; its HDFS client would need a JVM
        properties = {} if uris.scheme(folder) == "file" else {"py-io-impl": f"{__name__}.{PortIO.__name__}"}
        return StaticTable.from_metadata(f"{folder}/v{latest}.metadata.json", properties)


def _scan(table: Table, columns: Sequence[str], where: str, snapshot: int | None) -> DataScan:
    scan = table.scan(selected_fields=tuple(columns), snapshot_id=snapshot)
    return scan.filter(where) if where else scan


def _in_present_columns(table: Table, schema: Schema) -> Table:
    """Gives a table and all its snapshots the present columns, some of which an older version named otherwise.

    Iceberg finds the columns of files by field id, so only the metadata in memory changes.
    """
    columns = schema.field_ids()
    names = {number: column.name for number, column in columns.items()}
    added = [NestedField(key, one.name, StringType(), required=False) for key, one in columns.items() if one.added]
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
    """Replaces null by the default in columns that are newer than their rows."""
    for column in schema.columns:
        if column.added and column.name in batch.schema.names:
            place, filled = batch.schema.get_field_index(column.name), pc.fill_null(batch[column.name], column.default)
            batch = batch.set_column(place, batch.schema.field(place), filled)
    return batch


class PortIO(FileIO):
    """Lets pyiceberg read through the project's file stores."""

    def new_input(self, location: str) -> InputFile:
        """Opens a file for reading."""
        return _PortInput(location)

    def new_output(self, location: str) -> OutputFile:
        """Refuses: only Spark writes tables."""
        raise io.UnsupportedOperation(f"{location}: only Spark writes tables")

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Refuses: only Spark writes tables."""
        raise io.UnsupportedOperation(f"{location}: only Spark writes tables")


class _PortInput(InputFile):
    def __len__(self) -> int:
        return storage.files(self.location).stat(self.location).length

    def exists(self) -> bool:
        return storage.files(self.location).exists(self.location)

    def open(self, seekable: bool = True) -> InputStream:
        return storage.files(self.location).open(self.location)
