"""Forget: product ids in; no row, photo, vector, shard or report of them is left.   [pyspark]

Rows go first, then the index without them is put in service, then everything goes that still holds them: the
other builds, the reports, the older snapshots with their files. A killed run is completed by the same command,
which finds the products in the older snapshots.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from likeness import storage
from likeness.catalog.hidden_products import HiddenProducts
from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.index.builds import Builds
from likeness.spark.run import Run
from likeness.spark.stages.index import index, publish, searchable
from likeness.spark.stages.load import opened
from likeness.storage.run_facts import ForgetFacts, SweepFacts
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LABELS, LISTINGS, SOURCES, TABLES, Table


def forget(run: Run, product_ids: Sequence[str]) -> None:
    """Erases products, and the photos that no other product lists.

    Raises:
        UsageError: a product that no listing names, and none ever did.
        GateError: the index without them does not pass its gates; run it again with other settings.
    """
    with run.stage(ForgetFacts) as facts:
        listed = _listings(run, product_ids)
        photos, places = _theirs_alone(run, listed, product_ids)
        facts.products, facts.photos = len(product_ids), len(photos)
        run.say(f"forget: {len(product_ids)} products, {len(photos)} photos that no other product lists")
        with opened(run.settings) as store:
            store.delete_vectors(photos)
            store.delete_products(product_ids)
            store.purge()
        for table, rows in (
            (FEATURES, F.col("image_id").isin(photos)),
            (LABELS, F.col("image_id").isin(photos)),
            (IMAGES, F.col("image_id").isin(photos)),
            (SOURCES, F.col("image_id").isin(photos) | F.col("uri").isin(places)),
            (FAILURES, F.col("what").isin([*photos, *places])),
            (LISTINGS, F.col("product_id").isin(list(product_ids))),
        ):
            _delete(run, table, rows)
    HiddenProducts(run.settings.root).show(product_ids)  # no trace of them there either
    builds = Builds(run.settings.root, run.settings.extract.cache)
    kept = None
    if not searchable(run).isEmpty():
        built = index(run, whole=True)  # a delta's base would still hold them
        if built:
            publish(run, built)
        kept = builds.find()
    with run.stage(SweepFacts) as facts:
        run.guard()
        facts.builds = builds.keep_only(kept)
        reports = uris.join(uris.canonical(run.settings.root), "reports")
        storage.files(reports).delete(reports)
        for table in TABLES:
            if run.tables.snapshot(table) is not None:
                run.tables.expire(table)
                run.tables.delete_orphans(table)
        run.say(f"forget: {facts.builds} earlier builds, the reports and all older snapshots are deleted")


def _listings(run: Run, product_ids: Sequence[str]) -> pa.Table:
    """(product_id, image_id, uri) of the products, each from the newest snapshot that lists it."""
    found, missing = [], set(product_ids)
    for snapshot in run.tables.snapshots(LISTINGS):
        rows = run.tables.read(LISTINGS, snapshot).where(F.col("product_id").isin(sorted(missing)))
        found.append(rows.select("product_id", "image_id", "uri").toArrow())
        missing -= set(found[-1]["product_id"].to_pylist())
        if not missing:
            return pa.concat_tables(found)
    raise UsageError(
        f"no listing names product {', '.join(map(repr, sorted(missing)))}; nothing is changed. "
        "An id is what the catalogue names it, or a photo's path in its folder"
    )


def _theirs_alone(run: Run, listed: pa.Table, product_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """(image_ids, uris) that are listed by these products, and by no other."""
    others = run.tables.read(LISTINGS).where(~F.col("product_id").isin(list(product_ids))).select("image_id", "uri")
    alone = []
    for name in ("image_id", "uri"):
        mine = pc.unique(listed[name]).to_pylist()
        shared = others.where(F.col(name).isin(mine)).select(name).distinct().toArrow()[name].to_pylist()
        alone.append(sorted(set(mine) - set(shared)))
    return alone[0], alone[1]


def _delete(run: Run, table: Table, rows: Column) -> None:
    """Deletes rows in one commit, if there are any."""
    if run.tables.snapshot(table) is None:
        return
    keys = run.tables.read(table).where(rows).select(*table.key).toArrow()
    if keys.num_rows:
        run.guard()
        run.tables.delete(table, run.tables.spark.createDataFrame(keys))
        run.say(f"forget: {keys.num_rows} rows of {table.name}")
