"""The Iceberg tables of a root, read and written by Spark.   [pyspark]"""

import functools
import operator
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyspark.sql import Column as SqlColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from likeness.core import uris
from likeness.core.errors import DataError
from likeness.core.settings import Settings
from likeness.spark.commits import Commits
from likeness.spark.schema_evolution import in_present_columns, update_columns
from likeness.storage import table_reader
from likeness.storage.tables import RUNS, TABLES, Table, Value

_CATALOG = "lake"
_TASKS_A_CORE = 4
_FOOTERS = 8
"""Footers of Parquet files that are read at once: for each, Iceberg reads the settings of Hadoop anew, 10 to 15 ms."""
_MARK = "likeness-commit"
"""The property of a snapshot that identifies the commit that made it."""


class SparkTables:
    """Reads and writes the tables of one root by Spark; creates them, and migrates those of an older version."""

    def __init__(self, spark: SparkSession, settings: Settings, check: Callable[[], None] = lambda: None) -> None:
        """Opens the tables; `check` is called before each commit, and may refuse it."""
        self.spark, self._check = spark, check
        self._jvm: Any = spark._jvm
        self._namespace = settings.warehouse.namespace
        self._catalog = f"{_CATALOG}_{abs(hash((table_reader.location(settings), self._namespace)))}"
        self._configure(settings)
        self._commits = Commits(table_reader.location(settings))
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {self._catalog}.{self._namespace}")
        for table in TABLES:
            self._commits.run(table.name, functools.partial(self._prepare, table))

    def _prepare(self, table: Table) -> None:
        """Creates a table if it is missing; one of an older version gets the present columns."""
        self.spark.sql(table.ddl(self.name(table))[0])
        update_columns(self.spark, self._load(table), table)

    def _configure(self, settings: Settings) -> None:
        key = f"spark.sql.catalog.{self._catalog}"
        place = uris.hadoop(table_reader.location(settings))
        options = {"type": settings.warehouse.type, "warehouse": place, "cache-enabled": "false"}
        self.spark.conf.set(key, "org.apache.iceberg.spark.SparkCatalog")
        for option, value in (options | settings.warehouse.options).items():
            self.spark.conf.set(f"{key}.{option}", value)

    def name(self, table: Table) -> str:
        """The full name of a table in SQL."""
        return f"{self._catalog}.{self._namespace}.{table.name}"

    def read(self, table: Table, snapshot: int | None = None) -> DataFrame:
        """Rows of a table, now or at a snapshot, in the present columns."""
        reader = self.spark.read.format("iceberg")
        if snapshot is not None:
            reader = reader.option("versionAsOf", snapshot)
        return in_present_columns(reader.load(self.name(table)), self._load(table), table, snapshot)

    @property
    def tasks(self) -> int:
        """The number of tasks that keeps all cores busy: a few for each core."""
        return int(_TASKS_A_CORE * self.spark.sparkContext.defaultParallelism)

    def spread(self, rows: pa.Table, tasks: int = 0) -> DataFrame:
        """Distributes the rows of a small Arrow table evenly over tasks; 0 means `self.tasks`."""
        partitions = max(1, min(len(rows), tasks or self.tasks))
        return self.spark.createDataFrame(rows).repartition(partitions)

    def append(self, table: Table, rows: DataFrame) -> int:
        """Appends rows in one commit; returns the number of added rows according to the snapshot."""
        writer = rows.select(*[column.name for column in table.columns]).writeTo(self.name(table))
        return self._add(table, lambda mark: writer.option(f"snapshot-property.{_MARK}", mark).append())

    def append_files(self, table: Table, files: Sequence[str], partition: Sequence[str]) -> int:
        """Adds Parquet files that tasks wrote to one partition in one commit; returns the number of added rows."""
        return self._add(table, lambda mark: self._add_files(table, files, partition, mark)) if files else 0

    def _add_files(self, table: Table, files: Sequence[str], partition: Sequence[str], mark: str) -> None:
        iceberg = self._jvm.org.apache.iceberg
        loaded = self._load(table)
        append = loaded.newAppend().set(_MARK, mark)
        metrics = iceberg.MetricsConfig.forTable(loaded)

        def data_file(file: str) -> Any:
            source = loaded.io().newInputFile(file)
            builder = iceberg.DataFiles.builder(loaded.spec()).withInputFile(source).withFormat("parquet")
            builder = builder.withMetrics(iceberg.parquet.ParquetUtil.fileMetrics(source, metrics))
            return builder.withPartitionValues(list(partition)).build()

        with ThreadPoolExecutor(_FOOTERS) as threads:
            for added in threads.map(data_file, files):
                append = append.appendFile(added)
        append.commit()

    def upsert(self, table: Table, rows: DataFrame) -> None:
        """Replaces rows of the same key and adds the others, in one commit."""
        changes = rows.select(*[column.name for column in table.columns])
        self._merge(table, changes, lambda merge: merge.whenMatched().updateAll().whenNotMatched().insertAll())

    def delete(self, table: Table, keys: DataFrame) -> None:
        """Deletes the rows of some keys in one commit."""
        self._merge(table, keys.select(*table.key), lambda merge: merge.whenMatched().delete())

    def _commit(self, table: Table, commit: Callable[[], None]) -> None:
        if table is not RUNS:  # a run that may not commit any more still writes its own row
            self._check()
        self._commits.run(table.name, commit)

    def _merge(self, table: Table, rows: DataFrame, actions: Callable[[Any], Any]) -> None:
        name = self.name(table)
        defaults = {column.name: column.default for column in table.columns}

        def value(source: str, key: str) -> SqlColumn:
            column, default = F.col(f"{source}.{key}"), defaults[key]
            return column if default is None else F.coalesce(column, F.lit(default))

        same = [value("changes", key) == value(name, key) for key in table.key]
        condition = functools.reduce(operator.and_, same)
        self._commit(table, lambda: actions(rows.alias("changes").mergeInto(name, condition)).merge())

    def snapshot(self, table: Table) -> int | None:
        """The current snapshot of a table; None if it has none yet."""
        current = self._load(table).currentSnapshot()
        return int(current.snapshotId()) if current else None

    def written(self) -> list[Table]:
        """The tables that have a snapshot."""
        return [table for table in TABLES if self.snapshot(table) is not None]

    def snapshots(self, table: Table) -> list[int]:
        """The snapshots that are not expired, latest first."""
        snapshots = [(int(s.timestampMillis()), int(s.snapshotId())) for s in self._load(table).snapshots()]
        return [snapshot for _, snapshot in sorted(snapshots, reverse=True)]

    def file_count(self, table: Table) -> int:
        """The number of data files of the current snapshot."""
        current = self._load(table).currentSnapshot()
        return int(current.summary().get("total-data-files") or 0) if current else 0

    def files_of(self, table: Table, column: str, value: str, snapshot: int, after: int | None = None) -> list[str]:
        """The data files of one partition value in a snapshot; only those appended after an earlier one, if given."""
        loaded = self._load(table)
        if after is None:
            scan = loaded.newScan().useSnapshot(snapshot)
        else:
            scan = loaded.newIncrementalAppendScan().fromSnapshotExclusive(after).toSnapshot(snapshot)
        planned = scan.filter(self._jvm.org.apache.iceberg.expressions.Expressions.equal(column, value)).planFiles()
        try:
            return [str(task.file().location()) for task in planned.iterator()]
        finally:
            planned.close()

    def rewrite(self, table: Table) -> None:
        """Compacts small data files into large ones, sorted by key as the stages write them."""
        self._check()
        options = "map('min-input-files', '2', 'rewrite-job-order', 'bytes-asc')"
        name = f"'{self._namespace}.{table.name}'"
        self.spark.sql(
            f"CALL {self._catalog}.system.rewrite_data_files(table => {name}, strategy => 'sort', "
            f"sort_order => '{', '.join(table.key)}', options => {options})"
        )
        self.spark.sql(f"CALL {self._catalog}.system.rewrite_manifests(table => {name})")

    def expire(self, table: Table, needed: Collection[int] = ()) -> None:
        """Expires the snapshots before the oldest needed one, and deletes files that only they refer to."""
        self._check()
        loaded = self._load(table)
        times = [int(s.timestampMillis()) for s in loaded.snapshots() if int(s.snapshotId()) in needed]
        before = min([*times, int(loaded.currentSnapshot().timestampMillis())])
        loaded.expireSnapshots().expireOlderThan(before).retainLast(1).cleanExpiredFiles(True).commit()

    def delete_orphans(self, table: Table) -> None:
        """Deletes files that no snapshot refers to, which killed runs have left. No other run may be active."""
        actions = self._jvm.org.apache.iceberg.spark.actions.SparkActions
        now = int(1000 * time.time()) + 1
        actions.get(self.spark._jsparkSession).deleteOrphanFiles(self._load(table)).olderThan(now).execute()

    def relocated(self, table: Table, location: str, staging: str) -> list[tuple[str, str]]:
        """Writes the metadata of a table for another location; returns (source, target) of every file to copy."""
        prefixes = [uri.replace("'", "\\'") for uri in (self.location(table), *map(uris.hadoop, (location, staging)))]
        written = self.spark.sql(
            f"CALL {self._catalog}.system.rewrite_table_path(table => '{self._namespace}.{table.name}', "
            "source_prefix => '{}', target_prefix => '{}', staging_location => '{}')".format(*prefixes)
        ).collect()
        pairs = self.spark.read.csv(written[0].file_list_location).collect()
        return [(row[0], row[1]) for row in pairs]

    def location(self, table: Table) -> str:
        """The folder of a table."""
        return str(self._load(table).location())

    def rows(self, table: Table, rows: Sequence[Mapping[str, Value]]) -> DataFrame:
        """Makes a DataFrame of Python rows, with the column types of a table."""
        schema = pa.schema([pa.field(column.name, column.type) for column in table.columns])
        return self.spark.createDataFrame(pa.Table.from_pylist(list(rows), schema=schema))

    def _load(self, table: Table) -> Any:
        load = self._jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergTable
        return load(self.spark._jsparkSession, self.name(table))

    def _add(self, table: Table, commit: Callable[[str], None]) -> int:
        """Commits with a mark; returns the number of rows that this added. Other runs may commit at the same time.

        Raises:
            DataError: the table has lost the commit.
        """
        mark = uuid.uuid4().hex
        self._commit(table, functools.partial(commit, mark))
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
