"""Brings tables of an older version to the present columns; Iceberg tells columns by field id.   [pyspark]"""

from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from likeness.storage.tables import Column, Table


def update_columns(spark: SparkSession, loaded: Any, table: Table) -> None:
    """Renames and adds columns of a loaded Iceberg table in one commit; none if they are up to date.

    A partition field keeps its old name: another name would be a new partition spec, and compaction would not merge
    files of the old spec with those of the new one.
    """
    jvm: Any = spark._jvm
    outdated, update = _outdated(loaded.schema(), table), loaded.updateSchema()
    for before, column in outdated:
        if before is None:
            kind = jvm.org.apache.spark.sql.types.DataType.fromDDL(column.sql_type)
            kind = jvm.org.apache.iceberg.spark.SparkSchemaUtil.convert(kind)
            update = update.addColumn(column.name, kind, column.doc)
        else:
            update = update.renameColumn(before, column.name)
    if outdated:
        update.commit()


def in_present_columns(rows: DataFrame, loaded: Any, table: Table, snapshot: int | None) -> DataFrame:
    """Gives rows of a snapshot, which have the columns of that time, the present columns with their defaults."""
    if snapshot is not None:
        for before, column in _outdated(loaded.schemas().get(loaded.snapshot(snapshot).schemaId()), table):
            if before is None:
                rows = rows.withColumn(column.name, F.lit(None).cast(column.sql_type))
            else:
                rows = rows.withColumnRenamed(before, column.name)
    for column in table.columns:
        if column.added:
            rows = rows.withColumn(column.name, F.coalesce(F.col(column.name), F.lit(column.default)))
    return rows


def _outdated(schema: Any, table: Table) -> list[tuple[str | None, Column]]:
    """The columns that an Iceberg schema has under another name, with that name, or lacks, with None."""
    fields = ((schema.findField(number), column) for number, column in table.field_ids().items())
    names = [(field.name() if field else None, column) for field, column in fields]
    return [(name, column) for name, column in names if name != column.name]
