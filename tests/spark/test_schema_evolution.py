"""Tables of an older version are brought to the present columns, and are read in them before that and after."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from likeness import storage
from likeness.core import uris
from likeness.core.settings import Settings
from likeness.ops.backfill_coverage import backfill_coverage
from likeness.spark.stages.extract_task import record_batch
from likeness.spark.tables import SparkTables
from likeness.storage.table_reader import TableReader, location
from likeness.storage.tables import FEATURES, IMAGES, LISTINGS, Table

SPACE = "alexnet.fc6@00000000"
FIRST, SECOND = datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)
COLUMNS = {
    IMAGES: "image_id STRING NOT NULL, bytes BINARY NOT NULL, format STRING NOT NULL, width INT NOT NULL, "
    "height INT NOT NULL, size BIGINT NOT NULL, uri STRING NOT NULL, epoch DATE NOT NULL",
    FEATURES: "image_id STRING NOT NULL, space STRING NOT NULL, epoch DATE NOT NULL, vector ARRAY<FLOAT> NOT NULL, "
    "norm DOUBLE NOT NULL",
}
PARTITIONS = {IMAGES: "epoch", FEATURES: "space, epoch"}
ROWS = {
    IMAGES: "('{key}', X'00', 'JPEG', 1, 1, 1, 'file:/{key}.jpg', DATE'{date}')",
    FEATURES: f"('{{key}}', '{SPACE}', DATE'{{date}}', ARRAY(1.0F, 2.0F), 2.23D)",
}


@pytest.fixture
def old(configure: Callable[..., Settings], tmp_path: Any, spark: Any) -> Settings:
    """A root with the tables of the first version: photo a of one date, b of the next, each in a commit of its own."""
    settings = configure(tmp_path)
    catalog = f"old_{abs(hash(location(settings)))}"  # Spark keeps each catalogue that it opened under its name
    spark.conf.set(f"spark.sql.catalog.{catalog}", "org.apache.iceberg.spark.SparkCatalog")
    spark.conf.set(f"spark.sql.catalog.{catalog}.type", "hadoop")
    spark.conf.set(f"spark.sql.catalog.{catalog}.warehouse", uris.hadoop(location(settings)))
    for table, columns in COLUMNS.items():
        name = f"{catalog}.{settings.warehouse.namespace}.{table.name}"
        copying = ", ".join(f"'write.{kind}.mode'='copy-on-write'" for kind in ("delete", "update", "merge"))
        spark.sql(
            f"CREATE TABLE {name} ({columns}) USING iceberg PARTITIONED BY ({PARTITIONS[table]}) TBLPROPERTIES "
            f"('format-version'='2', 'write.distribution-mode'='none', {copying})"
        )
        for key, date in (("a", FIRST), ("b", SECOND)):
            spark.sql(f"INSERT INTO {name} VALUES {ROWS[table].format(key=key, date=date)}")
    return settings


def dates(settings: Settings, table: Table, where: str = "", snapshot: int | None = None) -> dict[str, datetime.date]:
    """Ingest date by image_id, read without Spark."""
    rows = TableReader(settings).read(table, ("image_id", "ingest_date"), where, snapshot)
    return dict(zip(rows["image_id"].to_pylist(), rows["ingest_date"].to_pylist(), strict=True))


def metadata_version(settings: Settings, table: Table) -> int:
    """How many times the table was committed to."""
    folder = uris.join(location(settings), settings.warehouse.namespace, table.name, "metadata")
    return sum(name.endswith(".metadata.json") for name in storage.files(folder).names(folder))


@pytest.mark.parametrize("table", COLUMNS, ids=lambda table: table.name)
@pytest.mark.parametrize("opened", [False, True], ids=["as it was left", "once opened by Spark"])
def test_an_old_table_is_read_in_the_present_columns(old: Settings, spark: Any, table: Table, opened: bool) -> None:
    first = TableReader(old)._load(table).metadata.snapshots[0].snapshot_id
    if opened:
        SparkTables(spark, old)
    reader = TableReader(old)
    assert dates(old, table) == {"a": FIRST, "b": SECOND}
    assert dates(old, table, f"ingest_date = '{SECOND}'") == {"b": SECOND}
    assert dates(old, table, snapshot=first) == {"a": FIRST}
    assert dates(old, table, f"ingest_date < '{SECOND}'", first) == {"a": FIRST}
    assert len(reader.parts(table, f"ingest_date = '{FIRST}'")) == 1
    assert [(part.ingest_date, part.rows) for part in reader.partitions(table, first)] == [(FIRST, 1)]
    assert sorted(part.ingest_date for part in reader.partitions(table)) == [FIRST, SECOND]
    assert reader.read(table).column_names == [column.name for column in table.columns]
    if table is FEATURES:
        assert reader.read(table, ("region",), snapshot=first)["region"].to_pylist() == [""]
    counts = [(cell.photos, cell.present, cell.missing) for cell in backfill_coverage(reader)]
    assert counts == [(1, 1, 0)] * 2


def test_an_old_table_is_renamed_once_and_keeps_its_partitions(old: Settings, spark: Any) -> None:
    for _ in range(2):
        tables = SparkTables(spark, old)
    for table in COLUMNS:
        assert metadata_version(old, table) == 4, "created, two rows, and one commit for the present columns"
        assert tables.read(table).columns == [column.name for column in table.columns]
        assert len(list(tables._load(table).specs())) == 1
    reader = TableReader(old)
    assert reader.snapshot(FEATURES) == tables.snapshot(FEATURES)


def test_an_old_table_takes_new_rows(old: Settings, spark: Any) -> None:
    tables = SparkTables(spark, old)
    before = tables.snapshot(FEATURES)
    uri = uris.join(tables.location(FEATURES), "data", "part.parquet")
    batch = record_batch(SPACE, SECOND, ["c"], np.ones((1, 2), np.float32))
    path = uris.local_path(uri)
    pq.write_table(pa.Table.from_batches([batch]), path)
    assert tables.append_files(FEATURES, [uri], (SPACE, str(SECOND))) == 1
    face = {"image_id": "a", "region": "face", "space": SPACE, "ingest_date": FIRST, "vector": [5.0, 5.0], "norm": 7.1}
    assert tables.append(FEATURES, tables.rows(FEATURES, [face])) == 1

    rows = {("a", ""): [1, 2], ("b", ""): [1, 2], ("c", ""): [1, 1], ("a", "face"): [5, 5]}
    columns = ("image_id", "region", "vector")
    read = TableReader(old).read(FEATURES, columns).to_pylist()
    assert {(row["image_id"], row["region"]): row["vector"] for row in read} == rows
    read = tables.read(FEATURES).select(*columns).collect()
    assert {(row.image_id, row.region): row.vector for row in read} == rows
    assert dates(old, FEATURES, f"ingest_date = '{SECOND}'") == {"b": SECOND, "c": SECOND}
    assert TableReader(old).read(FEATURES, ("region",), snapshot=before)["region"].to_pylist() == ["", ""]
    assert len(tables.files_of(FEATURES, "space", SPACE, tables.snapshot(FEATURES), before)) == 2
    assert tables.read(FEATURES).where("image_id = 'c'").select("_file").collect()[0]["_file"].endswith("part.parquet")


def test_merges_take_a_missing_region_for_the_whole_photo(old: Settings, spark: Any) -> None:
    tables = SparkTables(spark, old)
    whole = {"image_id": "a", "region": "", "space": SPACE, "ingest_date": FIRST, "vector": [3.0, 4.0], "norm": 5.0}
    tables.upsert(FEATURES, tables.rows(FEATURES, [whole, whole | {"region": "face"}]))
    read = TableReader(old).read(FEATURES, ("image_id", "region", "norm")).to_pylist()
    assert {(row["image_id"], row["region"]): row["norm"] for row in read} == {
        ("a", ""): 5.0,
        ("a", "face"): 5.0,
        ("b", ""): 2.23,
    }
    keys = tables.read(FEATURES).where("image_id = 'b'").select(*FEATURES.key)
    assert keys.collect()[0]["region"] == ""
    tables.delete(FEATURES, spark.createDataFrame(keys.toArrow()))
    tables.rewrite(FEATURES)
    read = TableReader(old).read(FEATURES, ("image_id", "region")).to_pylist()
    assert sorted((row["image_id"], row["region"]) for row in read) == [("a", ""), ("a", "face")]


def test_spark_reads_older_snapshots_in_the_present_columns(old: Settings, spark: Any) -> None:
    tables = SparkTables(spark, old)
    oldest = tables.snapshots(FEATURES)[-1]
    rows = tables.read(FEATURES, oldest).where(F.col("ingest_date") == F.lit(FIRST))
    assert [(row.image_id, row.region) for row in rows.select("image_id", "region", "_file").collect()] == [("a", "")]
    assert tables.read(FEATURES, oldest).columns == [column.name for column in FEATURES.columns]


def test_a_new_table_has_the_field_ids_of_an_old_one(old: Settings, spark: Any, configure: Any, tmp_path: Any) -> None:
    new = configure(tmp_path, root=tmp_path / "new")
    for settings in (old, new):
        SparkTables(spark, settings)
        for table in (IMAGES, FEATURES, LISTINGS):
            schema = TableReader(settings)._load(table).schema()
            ids = {field.field_id: field.name for field in schema.fields}
            assert ids == {number: column.name for number, column in table.field_ids().items()}
        features = TableReader(settings)._load(FEATURES).schema()
        assert (features.find_field("vector.element").field_id, features.find_field("region").field_id) == (6, 7)
