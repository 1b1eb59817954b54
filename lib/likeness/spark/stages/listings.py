"""Listings: updates the table of which product shows which image from a catalogue.   [pyspark]"""

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness.core.errors import GateError
from likeness.spark.run import Run
from likeness.storage.run_facts import IngestFacts
from likeness.storage.tables import LISTINGS, SOURCES

_COLUMNS = ("uri", "category", "attributes", "active")


def update(run: Run, items: pa.Table, facts: IngestFacts) -> None:
    """Applies a listing to the `listings` table in one commit; writes nothing if nothing changed.

    A row is withdrawn if its catalogue row has `active = false`, if the bytes at its place have changed (the new image
    replaces it), and in `full` mode if the source no longer lists it.

    Raises:
        GateError: over `gates.max_withdraw_rate`; nothing was written.
    """
    changes = _changes(run, items).persist()
    try:
        counts = {row.op: row["count"] for row in changes.groupBy("op").count().collect()}
        facts.changed = sum(counts.get(op, 0) for op in ("new", "changed", "superseded"))
        facts.withdrawn = counts.get("withdrawn", 0)
        _gate(run, facts.withdrawn)
        if not counts:
            return
        commit = run.tables.append if set(counts) == {"new"} else run.tables.upsert
        commit(LISTINGS, changes.withColumn("since", F.lit(run.started)))
        run.say(f"ingest: committed {sum(counts.values())} listings")
    finally:
        changes.unpersist()


def _gate(run: Run, withdrawn: int) -> None:
    limit = run.settings.gates.max_withdraw_rate
    if not withdrawn:
        return
    active = run.tables.read(LISTINGS).where("active").count()
    if withdrawn / active > limit:
        raise GateError(
            f"ingest: this run would withdraw {withdrawn} of {active} active listings ({withdrawn / active:.0%}), "
            f"gates.max_withdraw_rate is {limit:.0%}; nothing is changed. "
            "If the source is complete, run again with --set gates.max_withdraw_rate=1"
        )


def _changes(run: Run, items: pa.Table) -> DataFrame:
    """The rows of `listings` to write, with `op`: new, changed, withdrawn or superseded."""
    tables = run.tables
    listed = tables.spark.createDataFrame(items.select(["product_id", *_COLUMNS, "length", "mtime"]))
    places = tables.read(SOURCES).where("outcome = 'image'").select("uri", "length", "mtime", "image_id")
    latest = (
        listed.join(places, ["uri", "length", "mtime"])
        .groupBy("product_id", "image_id")
        .agg(F.min_by(F.struct(*_COLUMNS), F.struct(~F.col("active"), "uri")).alias("columns"))
        .select("product_id", "image_id", "columns.*")
    )
    now = tables.read(LISTINGS).drop("since")
    before = now.select("product_id", "image_id", F.struct(*_COLUMNS).alias("before"))
    joined = latest.join(before, ["product_id", "image_id"], "left")
    differs = F.struct(*_COLUMNS) != F.col("before")
    op = (
        F.when(F.col("before").isNull(), F.when(F.col("active"), "new"))
        .when(~F.col("active") & F.col("before.active"), "withdrawn")
        .when(differs & (F.col("active") | F.col("before.active")), "changed")
    )
    updates = joined.withColumn("op", op).where("op IS NOT NULL").drop("before")
    return updates.unionByName(_withdrawn(run, listed, latest, now))


def _withdrawn(run: Run, listed: DataFrame, latest: DataFrame, now: DataFrame) -> DataFrame:
    """Active rows that this listing withdraws without naming them."""
    active = now.where("active")
    unnamed = active.join(latest.select("product_id", "image_id"), ["product_id", "image_id"], "left_anti")
    replaced = unnamed.join(latest.select("product_id", "uri").distinct(), ["product_id", "uri"], "left_semi")
    rows = replaced.withColumn("op", F.lit("superseded"))
    if run.settings.source.mode == "full":
        absent = unnamed.join(listed.select("product_id", "uri").distinct(), ["product_id", "uri"], "left_anti")
        rows = rows.unionByName(absent.withColumn("op", F.lit("withdrawn")))
    return rows.withColumn("active", F.lit(False))
