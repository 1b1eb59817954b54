"""Load: what changed in `features` and `listings` since the last load in, rows of the keyed store out.   [pyspark]

The store itself keeps how far the last load came, so the two cannot disagree; puts may be repeated.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness import stores
from likeness.spark.run import Run
from likeness.stores import Product
from likeness.tables import FEATURES, LISTINGS

_DONE = pa.schema([("put", pa.int64()), ("deleted", pa.int64())])
_DONE_DDL = "put long, deleted long"


def load(run: Run) -> None:
    """Brings the keyed store up to date with the tables."""
    with run.stage("load") as facts:
        uri = stores.keyed_uri(run.settings.keyed.uri, run.settings.root)
        store = stores.keyed(uri)
        try:
            marks = (f"vectors {run.space.id}", "products")
            facts["vectors"] = _load_vectors(run, store, uri, marks[0])
            facts["products"], facts["deleted"] = _load_products(run, store, uri, marks[1])
        finally:
            store.close()
        if any(facts[name] for name in ("vectors", "products", "deleted")):
            told = f"{facts['vectors']} vectors, {facts['products']} products, {facts['deleted']} deleted"
            run.say(f"load: {told}")


def _load_vectors(run: Run, store: stores.KeyedStore, uri: str, mark: str) -> int:
    now = run.lake.snapshot(FEATURES)
    before = store.get_mark(mark)
    if now is None or now == before:
        return 0
    span: dict[str, Any] = {"versionAsOf": now}
    if before is not None and run.lake.has_snapshot(FEATURES, before):
        span = {"start-snapshot-id": before, "end-snapshot-id": now}
    rows = run.lake.read(FEATURES, **span).where(F.col("space") == run.space.id).select("image_id", "vector")
    put, _ = _run(rows, _put_vectors(uri, run.space.id), store.writers)
    store.set_mark(mark, now)
    return put


def _load_products(run: Run, store: stores.KeyedStore, uri: str, mark: str) -> tuple[int, int]:
    now = run.lake.snapshot(LISTINGS)
    before = store.get_mark(mark)
    if now is None or now == before:
        return 0, 0
    rows = run.lake.read(LISTINGS, now)
    if before is not None and run.lake.has_snapshot(LISTINGS, before):
        old = run.lake.read(LISTINGS, before)
        changed = rows.exceptAll(old).unionByName(old.exceptAll(rows)).select("product_id").distinct()
        rows = rows.join(changed, "product_id", "left_semi")
    active = F.col("active")
    products = rows.groupBy("product_id").agg(
        F.min(F.when(active, F.struct("uri", "category", "attributes"))).alias("first"),
        F.array_sort(F.collect_set(F.when(active, F.col("image_id")))).alias("image_ids"),
    )
    columns = products.select("product_id", "first.category", "first.attributes", "image_ids")
    put, deleted = _run(columns, _put_products(uri), store.writers)
    store.set_mark(mark, now)
    return put, deleted


def _run(rows: DataFrame, work: Any, writers: int) -> tuple[int, int]:
    done = rows.coalesce(writers).mapInArrow(work, _DONE_DDL).toArrow()
    return sum(done["put"].to_pylist()), sum(done["deleted"].to_pylist())


def _put_vectors(uri: str, space: str) -> Any:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        store = stores.keyed(uri)
        try:
            pairs = (
                (key.as_py(), np.asarray(vector.values, np.float32))
                for batch in batches
                for key, vector in zip(batch.column("image_id"), batch.column("vector"), strict=True)
            )
            yield _done(store.put_vectors(space, pairs), 0)
        finally:
            store.close()

    return work


def _put_products(uri: str) -> Any:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        store, put, deleted = stores.keyed(uri), 0, 0
        try:
            for batch in batches:
                rows = batch.to_pylist()
                gone = [row["product_id"] for row in rows if not row["image_ids"]]
                store.delete_products(gone)
                put += store.put_products(_product(row) for row in rows if row["image_ids"])
                deleted += len(gone)
            yield _done(put, deleted)
        finally:
            store.close()

    return work


def _product(row: dict[str, Any]) -> Product:
    return Product(row["product_id"], row["category"], json.loads(row["attributes"]), tuple(row["image_ids"]))


def _done(put: int, deleted: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"put": put, "deleted": deleted}], schema=_DONE)
