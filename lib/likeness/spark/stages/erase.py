"""Forget: product ids in; every row, photo, vector, shard and report of them is deleted.   [pyspark]

First the rows are deleted, then an index without them is put in service. Last, everything that may still contain them
is deleted: the other builds, the reports, the older snapshots with their files. A killed run is completed by the same
command, which finds the products in the older snapshots.
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
from likeness.index.manifest import Manifest
from likeness.spark.run import Run
from likeness.spark.stages.index import index, publish, searchable
from likeness.spark.stages.load import open_keyed_store
from likeness.storage.run_facts import ForgetFacts, SweepFacts
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LABELS, LISTINGS, SOURCES, Table


def forget(run: Run, product_ids: Sequence[str]) -> None:
    """Erases products, and the photos that no other product lists.

    Raises:
        UsageError: no listing, now or in an older snapshot, names one of the products.
        GateError: the index without them does not pass its gates; run the command again with other settings.
    """
    with run.stage(ForgetFacts) as facts:
        listed = _listings(run, product_ids)
        photos, places = _exclusive_photos(run, listed, product_ids)
        facts.products, facts.photos = len(product_ids), len(photos)
        run.say(f"forget: {len(product_ids)} products, {len(photos)} photos that only they list")
        with open_keyed_store(run.settings) as store:
            store.delete_images(photos)
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
    HiddenProducts(run.settings.root).show(product_ids)  # deletes their hidden marks
    builds = Builds.open(run.settings)
    in_service: list[Manifest | None] = [builds.find(space=space) for space in builds.spaces()]
    rebuilt = [_rebuild(run, manifest) for manifest in reversed(in_service or [None])]  # the default space comes last
    kept = [manifest for manifest in reversed(rebuilt) if manifest]
    with run.stage(SweepFacts) as facts:
        run.check_leases()
        facts.builds = builds.keep_only(kept)
        reports = uris.join(uris.canonical(run.settings.root), "reports")
        storage.files(reports).delete(reports)
        for table in run.tables.written():
            run.tables.expire(table)
            run.tables.delete_orphans(table)
        run.say(f"forget: deleted {facts.builds} earlier builds, the reports and all older snapshots")


def _rebuild(run: Run, in_service: Manifest | None) -> Manifest | None:
    """Builds and publishes the index of a space anew: the base of a delta would still contain the products.

    Args:
        run: the run that erases.
        in_service: the build of the space to index; the run's space if None.

    Returns:
        The build; None if the space has nothing left to index.
    """
    if searchable(run, in_service.space if in_service else run.space.id).isEmpty():
        return None
    built = index(run, whole=True, like=in_service)
    if built:
        publish(run, built, pins="keep")
    return built


def _listings(run: Run, product_ids: Sequence[str]) -> pa.Table:
    """(product_id, image_id, uri) of the products, each from the newest snapshot that lists it."""
    listings, missing = [], set(product_ids)
    for snapshot in run.tables.snapshots(LISTINGS):
        rows = run.tables.read(LISTINGS, snapshot).where(F.col("product_id").isin(sorted(missing)))
        listings.append(rows.select("product_id", "image_id", "uri").toArrow())
        missing -= set(listings[-1]["product_id"].to_pylist())
        if not missing:
            return pa.concat_tables(listings)
    raise UsageError(
        f"no listing names product {', '.join(map(repr, sorted(missing)))}; nothing is changed. "
        "A product id is the one of the catalogue, or the path of the photo in its folder"
    )


def _exclusive_photos(run: Run, listed: pa.Table, product_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """(image_ids, uris) that these products list, and no other product lists."""
    others = run.tables.read(LISTINGS).where(~F.col("product_id").isin(list(product_ids))).select("image_id", "uri")
    exclusive = []
    for name in ("image_id", "uri"):
        values = pc.unique(listed[name]).to_pylist()
        shared = others.where(F.col(name).isin(values)).select(name).distinct().toArrow()[name].to_pylist()
        exclusive.append(sorted(set(values) - set(shared)))
    return exclusive[0], exclusive[1]


def _delete(run: Run, table: Table, rows: Column) -> None:
    """Deletes the rows that a condition selects, in one commit."""
    keys = run.tables.read(table).where(rows).select(*table.key).toArrow()
    if keys.num_rows:
        run.tables.delete(table, run.tables.spark.createDataFrame(keys))
        run.say(f"forget: deleted {keys.num_rows} rows of {table.name}")
