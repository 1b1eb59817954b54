"""The Iceberg tables of one root, read and written by Spark: settings in, a `SparkTables` out.   [pyspark]"""

import functools
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import Column as SqlColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from likeness.core import uris
from likeness.core.errors import DataError
from likeness.core.settings import Settings
from likeness.spark.commits import Commits
from likeness.storage import table_reader
from likeness.storage.tables import TABLES, Column, Table

_CATALOG = "lake"
_TASKS_A_CORE = 4
_MARK = "likeness-commit"
"""A property of a snapshot, by which a commit knows its own among those of others."""


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that a task wrote beside a table and nobody refers to yet."""

    uri: str
    rows: int


class SparkTables:
    """The tables of one root, open for reading and writing by Spark."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark = spark
        self._namespace = settings.warehouse.namespace
        self._catalog = f"{_CATALOG}_{abs(hash((table_reader.location(settings), self._namespace)))}"
        self._configure(settings)
        self._commits = Commits(table_reader.location(settings))
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {self._catalog}.{self._namespace}")
        for table in TABLES:
            self._commits.make(table.name, functools.partial(self._prepare, table))

    def _prepare(self, table: Table) -> None:
        """Creates a table; one of an older version gets its new columns and names, in one commit.

        A partition field keeps its old name: another name would be a new partition spec, and files of the old spec
        would be compacted apart from those of the new one.
        """
        self.spark.sql(table.ddl(self.name(table))[0])
        loaded = self._load(table)
        fields, update, changed = loaded.schema().asStruct(), loaded.updateSchema(), False
        for number, column in table.field_ids().items():
            field = fields.field(number)
            if field is None:
                update = update.addColumn(column.name, self._iceberg_type(column), column.doc)
            elif field.name() != column.name:
                update = update.renameColumn(field.name(), column.name)
            changed |= field is None or field.name() != column.name
        if changed:
            update.commit()

    def _iceberg_type(self, column: Column) -> Any:
        jvm: Any = self.spark._jvm
        kind = jvm.org.apache.spark.sql.types.DataType.fromDDL(column.sql_type)
        return jvm.org.apache.iceberg.spark.SparkSchemaUtil.convert(kind)

    def _configure(self, settings: Settings) -> None:
        key = f"spark.sql.catalog.{self._catalog}"
        self.spark.conf.set(key, "org.apache.iceberg.spark.SparkCatalog")
        self.spark.conf.set(f"{key}.type", settings.warehouse.type)
        self.spark.conf.set(f"{key}.warehouse", uris.hadoop(table_reader.location(settings)))
        self.spark.conf.set(f"{key}.cache-enabled", "false")
        for option, value in settings.warehouse.options.items():
            self.spark.conf.set(f"{key}.{option}", value)

    def name(self, table: Table) -> str:
        """The table's full name in SQL."""
        return f"{self._catalog}.{self._namespace}.{table.name}"

    def read(self, table: Table, snapshot: int | None = None) -> DataFrame:
        """A table's rows, now or at a snapshot, in the present columns."""
        reader = self.spark.read.format("iceberg")
        if snapshot is not None:
            reader = reader.option("versionAsOf", snapshot)
        rows = reader.load(self.name(table))
        if snapshot is not None:
            rows = self._in_present_columns(rows, table, snapshot)
        defaults = {c.name: F.coalesce(F.col(c.name), F.lit(c.default)) for c in table.columns if c.added}
        return rows.withColumns(defaults) if defaults else rows

    def _in_present_columns(self, rows: DataFrame, table: Table, snapshot: int) -> DataFrame:
        """Rows of a snapshot, which come in the columns that the table had then."""
        loaded = self._load(table)
        fields = loaded.schemas().get(loaded.snapshot(snapshot).schemaId()).asStruct()
        for number, column in table.field_ids().items():
            field = fields.field(number)
            if field is None:
                rows = rows.withColumn(column.name, F.lit(None).cast(column.sql_type))
            elif field.name() != column.name:
                rows = rows.withColumnRenamed(field.name(), column.name)
        return rows

    @property
    def tasks(self) -> int:
        """How many tasks keep all cores busy to the end: a few for each."""
        return int(_TASKS_A_CORE * self.spark.sparkContext.defaultParallelism)

    def spread(self, rows: pa.Table, tasks: int = 0) -> DataFrame:
        """A small table's rows, evenly over so many tasks; over as many as keep all cores busy, if 0."""
        wanted = max(1, min(len(rows), tasks or self.tasks))
        return self.spark.createDataFrame(rows).repartition(wanted)

    def append(self, table: Table, rows: DataFrame) -> int:
        """Appends rows in one commit; returns how many the snapshot says were added."""
        mark = uuid.uuid4().hex
        writer = rows.select(*[column.name for column in table.columns]).writeTo(self.name(table))
        self._commits.make(table.name, writer.option(f"snapshot-property.{_MARK}", mark).append)
        return self._added(table, mark)

    def append_files(self, table: Table, files: Sequence[DataFile], partition: Sequence[str]) -> int:
        """Adds files that tasks wrote to one partition, in one commit; returns the rows added."""
        if not files:
            return 0
        mark = uuid.uuid4().hex
        self._commits.make(table.name, lambda: self._add(table, files, partition, mark))
        return self._added(table, mark)

    def _add(self, table: Table, files: Sequence[DataFile], partition: Sequence[str], mark: str) -> None:
        iceberg = self.spark._jvm.org.apache.iceberg  # type: ignore[union-attr]
        loaded = self._load(table)
        append = loaded.newAppend().set(_MARK, mark)
        metrics = iceberg.MetricsConfig.forTable(loaded)
        for file in files:
            source = loaded.io().newInputFile(file.uri)
            builder = iceberg.DataFiles.builder(loaded.spec()).withInputFile(source).withFormat("parquet")
            builder = builder.withPartitionValues(list(partition))
            append = append.appendFile(
                builder.withMetrics(iceberg.parquet.ParquetUtil.fileMetrics(source, metrics)).build()
            )
        append.commit()

    def upsert(self, table: Table, rows: DataFrame) -> None:
        """Replaces the rows of the same key and adds the others, in one commit."""
        changes = rows.select(*[column.name for column in table.columns])

        def commit() -> None:
            self._merge(table, changes).whenMatched().updateAll().whenNotMatched().insertAll().merge()

        self._commits.make(table.name, commit)

    def delete(self, table: Table, keys: DataFrame) -> None:
        """Deletes the rows of the given keys, in one commit."""
        these = keys.select(*table.key)
        self._commits.make(table.name, lambda: self._merge(table, these).whenMatched().delete().merge())

    def _merge(self, table: Table, rows: DataFrame) -> Any:
        name = self.name(table)
        defaults = {column.name: column.default for column in table.columns}

        def value(source: str, key: str) -> SqlColumn:
            column, default = F.col(f"{source}.{key}"), defaults[key]
            return column if default is None else F.coalesce(column, F.lit(default))

        same = [value("changes", key) == value(name, key) for key in table.key]
        return rows.alias("changes").mergeInto(name, functools.reduce(lambda left, right: left & right, same))

    def snapshot(self, table: Table) -> int | None:
        """The table's current snapshot."""
        current = self._load(table).currentSnapshot()
        return int(current.snapshotId()) if current else None

    def snapshots(self, table: Table) -> list[int]:
        """The snapshots that were not expired yet, the newest first."""
        found = [(int(s.timestampMillis()), int(s.snapshotId())) for s in self._load(table).snapshots()]
        return [snapshot for _, snapshot in sorted(found, reverse=True)]

    def files(self, table: Table) -> int:
        """How many data files the current snapshot has."""
        current = self._load(table).currentSnapshot()
        return int(current.summary().get("total-data-files") or 0) if current else 0

    def files_of(self, table: Table, column: str, value: str, snapshot: int, after: int | None = None) -> list[str]:
        """The data files of one partition value: of a snapshot, or of what was appended after an earlier one."""
        jvm: Any = self.spark._jvm
        loaded = self._load(table)
        if after is None:
            scan = loaded.newScan().useSnapshot(snapshot)
        else:
            scan = loaded.newIncrementalAppendScan().fromSnapshotExclusive(after).toSnapshot(snapshot)
        planned = scan.filter(jvm.org.apache.iceberg.expressions.Expressions.equal(column, value)).planFiles()
        try:
            return [str(task.file().location()) for task in planned.iterator()]
        finally:
            planned.close()

    def rewrite(self, table: Table) -> None:
        """Puts the rows of small files into large ones, sorted by the key as the stages wrote them."""
        options = "map('min-input-files', '2', 'rewrite-job-order', 'bytes-asc')"
        name = f"'{self._namespace}.{table.name}'"
        self.spark.sql(
            f"CALL {self._catalog}.system.rewrite_data_files(table => {name}, strategy => 'sort', "
            f"sort_order => '{', '.join(table.key)}', options => {options})"
        )
        self.spark.sql(f"CALL {self._catalog}.system.rewrite_manifests(table => {name})")

    def expire(self, table: Table, needed: Collection[int] = ()) -> None:
        """Forgets the snapshots older than the oldest needed one, and deletes the files that only they name."""
        loaded = self._load(table)
        times = [int(s.timestampMillis()) for s in loaded.snapshots() if int(s.snapshotId()) in needed]
        before = min([*times, int(loaded.currentSnapshot().timestampMillis())])
        loaded.expireSnapshots().expireOlderThan(before).retainLast(1).cleanExpiredFiles(True).commit()

    def delete_orphans(self, table: Table) -> None:
        """Deletes files beside the table that no snapshot names: what killed runs left. No run may be at work."""
        actions = self.spark._jvm.org.apache.iceberg.spark.actions.SparkActions  # type: ignore[union-attr]
        now = int(1000 * time.time()) + 1
        actions.get(self.spark._jsparkSession).deleteOrphanFiles(self._load(table)).olderThan(now).execute()

    def relocated(self, table: Table, location: str, staging: str) -> list[tuple[str, str]]:
        """Writes the table's metadata anew for another location; (source, target) of every file to copy there."""
        prefixes = [uri.replace("'", "\\'") for uri in (self.location(table), *map(uris.hadoop, (location, staging)))]
        written = self.spark.sql(
            f"CALL {self._catalog}.system.rewrite_table_path(table => '{self._namespace}.{table.name}', "
            "source_prefix => '{}', target_prefix => '{}', staging_location => '{}')".format(*prefixes)
        ).collect()
        pairs = self.spark.read.csv(written[0].file_list_location).collect()
        return [(row[0], row[1]) for row in pairs]

    def has_snapshot(self, table: Table, snapshot: int) -> bool:
        """Whether a snapshot was not expired yet."""
        return self._load(table).snapshot(snapshot) is not None

    def location(self, table: Table) -> str:
        """Where the table's files are."""
        return str(self._load(table).location())

    def rows(self, table: Table, rows: Sequence[dict[str, Any]]) -> DataFrame:
        """Python rows as a DataFrame of the table's types."""
        schema = pa.schema([pa.field(column.name, column.type) for column in table.columns])
        return self.spark.createDataFrame(pa.Table.from_pylist(list(rows), schema=schema))

    def _load(self, table: Table) -> Any:
        jvm: Any = self.spark._jvm
        return jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergTable(self.spark._jsparkSession, self.name(table))

    def _added(self, table: Table, mark: str) -> int:
        """The rows that the commit of this mark added, whatever others have committed since.

        Raises:
            DataError: the table does not know the commit.
        """
        loaded = self._load(table)
        snapshot = loaded.currentSnapshot()
        while snapshot and snapshot.summary().get(_MARK) != mark:
            snapshot = loaded.snapshot(snapshot.parentId()) if snapshot.parentId() else None
        if not snapshot:
            raise DataError(
                f"table {table.name} has lost a commit that was made just now: another program writes to it without "
                "its lock. Keep a root that several machines write to on HDFS, and run the job again"
            )
        return int(snapshot.summary().get("added-records") or 0)
