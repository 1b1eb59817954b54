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
    fields, update, changed = loaded.schema().asStruct(), loaded.updateSchema(), False
    for number, column in table.field_ids().items():
        field = fields.field(number)
        if field is None:
            update = update.addColumn(column.name, _iceberg_type(spark, column), column.doc)
        elif field.name() != column.name:
            update = update.renameColumn(field.name(), column.name)
        else:
            continue
        changed = True
    if changed:
        update.commit()


def in_present_columns(rows: DataFrame, loaded: Any, table: Table, snapshot: int | None) -> DataFrame:
    """Gives rows of a snapshot, which have the columns of that time, the present columns with their defaults."""
    if snapshot is not None:
        fields = loaded.schemas().get(loaded.snapshot(snapshot).schemaId()).asStruct()
        for number, column in table.field_ids().items():
            field = fields.field(number)
            if field is None:
                rows = rows.withColumn(column.name, F.lit(None).cast(column.sql_type))
            elif field.name() != column.name:
                rows = rows.withColumnRenamed(field.name(), column.name)
    for column in table.columns:
        if column.added:
            rows = rows.withColumn(column.name, F.coalesce(F.col(column.name), F.lit(column.default)))
    return rows


def _iceberg_type(spark: SparkSession, column: Column) -> Any:
    jvm: Any = spark._jvm
    kind = jvm.org.apache.spark.sql.types.DataType.fromDDL(column.sql_type)
    return jvm.org.apache.iceberg.spark.SparkSchemaUtil.convert(kind)
