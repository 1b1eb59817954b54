"""The columns of every Iceberg table, rendered to Arrow schemas, SQL and documentation.

Iceberg knows a column by its field id, which follows from its place here: a column may be renamed, but it keeps its
place, and a new one comes last and has a `default`. Tables of older versions then get the new names and columns.
"""

import datetime
import itertools
from dataclasses import dataclass

import pyarrow as pa

Value = str | int | datetime.datetime | None
"""A cell of a row that the driver writes."""


@dataclass(frozen=True)
class Column:
    """A column's name, Arrow type and meaning.

    `default` is set for a column that came after the first version of its table: rows written before have null there,
    which counts as this value.
    """

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False
    default: str | None = None

    @property
    def added(self) -> bool:
        """Whether the column came after the first version of its table."""
        return self.default is not None

    @property
    def sql_type(self) -> str:
        """The type in Spark's SQL."""
        return _sql_type(self.type)


@dataclass(frozen=True)
class Table:
    """One Iceberg table."""

    name: str
    doc: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    partition: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()

    def arrow(self) -> pa.Schema:
        """The Arrow schema, each field with its Iceberg field id, so that files written with it can be added."""
        fields, elements = [], itertools.count(1 + sum(not column.added for column in self.columns))
        for number, column in self.field_ids().items():
            kind = column.type
            if pa.types.is_list(kind):
                kind = pa.list_(pa.field("element", kind.value_type, True, _metadata(next(elements))))
            fields.append(pa.field(column.name, kind, column.nullable, _metadata(number)))
        return pa.schema(fields)

    def field_ids(self) -> dict[int, Column]:
        """The columns by Iceberg field id. Iceberg numbers the columns of a new table, then the elements of lists."""
        first = [column for column in self.columns if not column.added]
        lists = sum(pa.types.is_list(column.type) for column in first)
        later = [column for column in self.columns if column.added]
        return dict(enumerate(first, 1)) | dict(enumerate(later, len(first) + lists + 1))

    def ddl(self, name: str) -> list[str]:
        """The statements of Spark's SQL that create the table: its first form, then each column that came later.

        A new table so gets the field ids that an older one has.
        """
        columns = ",\n".join(f"  {_definition(column)}" for column in self.columns if not column.added)
        partition = f"\nPARTITIONED BY ({', '.join(self.partition)})" if self.partition else ""
        properties = ", ".join(f"'{key}'='{value}'" for key, value in (*_PROPERTIES, *self.properties))
        create = (
            f"CREATE TABLE IF NOT EXISTS {name} (\n{columns}\n) USING iceberg{partition}\n"
            f"COMMENT '{self.doc}'\nTBLPROPERTIES ({properties})"
        )
        return [create, *(f"ALTER TABLE {name} ADD COLUMN {_definition(c)}" for c in self.columns if c.added)]


def _definition(column: Column) -> str:
    return f"{column.name} {column.sql_type}{'' if column.nullable else ' NOT NULL'} COMMENT '{column.doc}'"


def _metadata(field_id: int) -> dict[str, str]:
    return {"PARQUET:field_id": str(field_id)}


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"ARRAY<{_sql_type(kind.value_type)}>"
    return _SQL.get(kind, str(kind).upper())


TIMESTAMP = pa.timestamp("us", tz="UTC")
_SQL = {pa.int32(): "INT", pa.int64(): "BIGINT", pa.bool_(): "BOOLEAN", pa.date32(): "DATE", TIMESTAMP: "TIMESTAMP"}
"""Spark's names of Arrow types that Arrow calls otherwise."""

# Iceberg's default distribution would shuffle all vectors into one task. Copy-on-write keeps the data files of a
# snapshot readable as plain Parquet.
_PROPERTIES = (
    ("format-version", "2"),
    ("write.distribution-mode", "none"),
    ("write.delete.mode", "copy-on-write"),
    ("write.update.mode", "copy-on-write"),
    ("write.merge.mode", "copy-on-write"),
    ("write.parquet.compression-codec", "zstd"),
    ("write.metadata.delete-after-commit.enabled", "true"),
    ("write.metadata.previous-versions-max", "100"),
    ("commit.retry.num-retries", "20"),
)

SOURCES = Table(
    "sources",
    "One file or member of the source, and the outcome of reading it",
    ("uri",),
    (
        Column("uri", pa.string(), "file, or container!/member"),
        Column("length", pa.int64(), "bytes"),
        Column("mtime", pa.int64(), "last change of the file or container, microseconds since 1970"),
        Column("outcome", pa.string(), "image or rejected"),
        Column("image_id", pa.string(), "of its image", nullable=True),
        Column("reason", pa.string(), "why it was rejected", nullable=True),
        Column("run_id", pa.string(), "run that read it"),
    ),
)

IMAGES = Table(
    "images",
    "One photo, with its bytes",
    ("image_id",),
    (
        Column("image_id", pa.string(), "SHA-256 of the bytes, hexadecimal"),
        Column("bytes", pa.binary(), "the encoded photo"),
        Column("format", pa.string(), "JPEG, PNG, WEBP ..."),
        Column("width", pa.int32(), "pixels as stored"),
        Column("height", pa.int32(), "pixels as stored"),
        Column("size", pa.int64(), "bytes"),
        Column("uri", pa.string(), "of the first place it was read from"),
        Column("ingest_date", pa.date32(), "day on which the photo was ingested"),
    ),
    partition=("ingest_date",),
    # small row groups, which are divided among tasks, so that even one file keeps all cores busy without a shuffle
    properties=(
        ("write.parquet.row-group-size-bytes", "8388608"),
        ("write.parquet.page-size-bytes", "1048576"),
        ("read.split.target-size", "8388608"),
        ("read.split.open-file-cost", "65536"),
    ),
)

LISTINGS = Table(
    "listings",
    "A product shows an image",
    ("product_id", "image_id"),
    (
        Column("product_id", pa.string(), "from the catalogue"),
        Column("image_id", pa.string(), "of the photo"),
        Column("uri", pa.string(), "of the photo, from the catalogue"),
        Column("category", pa.string(), "from the catalogue"),
        Column("attributes", pa.string(), "other columns of the catalogue, a JSON object of text"),
        Column("active", pa.bool_(), "false once withdrawn"),
        Column("since", TIMESTAMP, "start of the run that last changed this row"),
    ),
)

FEATURES = Table(
    "features",
    "One vector of a photo, or of a region of it, in one feature space",
    ("image_id", "region", "space"),
    (
        Column("image_id", pa.string(), "of the photo"),
        Column("space", pa.string(), "feature space, backbone.layer@hash"),
        Column("ingest_date", pa.date32(), "ingest date of the photo"),
        Column("vector", pa.list_(pa.float32()), "output of the layer, not normalised"),
        Column("norm", pa.float64(), "Euclidean length of the vector"),
        Column("region", pa.string(), "part of the photo; empty or null: the whole photo", nullable=True, default=""),
    ),
    partition=("space", "ingest_date"),
    properties=(("read.split.target-size", "33554432"), ("read.split.open-file-cost", "65536")),
)

LABELS = Table(
    "labels",
    "The most probable classes of one photo by an ImageNet classifier",
    ("image_id", "space"),
    (
        Column("image_id", pa.string(), "of the photo"),
        Column("space", pa.string(), "feature space of the class scores, backbone.logits@hash"),
        Column("labels", pa.list_(pa.string()), "the five most probable classes, most probable first"),
        Column("probabilities", pa.list_(pa.float32()), "of these classes"),
    ),
    partition=("space",),
)

FAILURES = Table(
    "failures",
    "The failure ledger: what was rejected or failed, and has not succeeded since",
    ("what", "stage", "space"),
    (
        Column("what", pa.string(), "catalogue row (list), uri (list, ingest) or image_id (extract)"),
        Column("stage", pa.string(), "list, ingest or extract"),
        Column("space", pa.string(), "feature space, empty but for extract"),
        Column("reason", pa.string(), "short code"),
        Column("detail", pa.string(), "message"),
        Column("attempts", pa.int32(), "number of attempts"),
        Column("last", TIMESTAMP, "time of the last attempt"),
        Column("run_id", pa.string(), "run of the last attempt"),
    ),
)

RUNS = Table(
    "runs",
    "One run",
    ("run_id",),
    (
        Column("run_id", pa.string(), "start time and process"),
        Column("job", pa.string(), "nightly or a stage"),
        Column("status", pa.string(), "done, refused, failed or killed"),
        Column("started", TIMESTAMP, "when it began"),
        Column("ended", TIMESTAMP, "when it ended", nullable=True),
        Column("space", pa.string(), "feature space", nullable=True),
        Column("build", pa.string(), "build in service when it ended", nullable=True),
        Column("error", pa.string(), "error message of a run that is not done", nullable=True),
        Column("settings", pa.string(), "settings of the run, JSON"),
        Column("facts", pa.string(), "counts, seconds and snapshots by stage, JSON"),
    ),
)

TABLES = (SOURCES, IMAGES, LISTINGS, FEATURES, LABELS, FAILURES, RUNS)
