"""Load: what changed in `features` and `listings` since the last load in, rows of the keyed store out.   [pyspark]

The store itself keeps how far the last load came, so the two cannot disagree; puts may be repeated.
"""

import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import pyarrow as pa
from pyspark.errors import PythonException
from pyspark.sql import DataFrame

from likeness import storage
from likeness.catalog.products import COLUMNS, fold
from likeness.core.errors import ServiceError
from likeness.core.progress import Reporter
from likeness.core.settings import Settings
from likeness.ops import consistency
from likeness.spark.arrow_map import arrow_map
from likeness.spark.run import Run
from likeness.storage.run_facts import LoadFacts
from likeness.storage.table_reader import TableReader, vectors
from likeness.storage.tables import FEATURES, LISTINGS, Table

T = TypeVar("T")
_DONE = pa.schema([("put", pa.int64()), ("deleted", pa.int64())])
_DONE_DDL = "put long, deleted long"
_PRODUCTS = 1000
PRODUCTS_MARK = "products"
"""The store's mark of the `listings` snapshot that was loaded last."""


def expect_store(settings: Settings, reporter: Reporter) -> None:
    """Says at once if the keyed store does not answer: extraction may take hours, and the load tries again after it."""
    try:
        with opened(settings):
            pass
    except ServiceError as error:
        reporter.say(f"load: {error} – all else goes on, and the load is tried when its turn comes")


def opened(settings: Settings) -> "closing[storage.KeyedStore]":
    """The keyed store of the settings, made if it is missing, for as long as a `with` lasts.

    Raises:
        ServiceError: it does not answer.
    """
    return closing(storage.keyed(storage.keyed_uri(settings.keyed.uri, settings.root), create=True))


def load(run: Run) -> None:
    """Brings the keyed store up to date with the tables.

    Raises:
        ServiceError: the store does not answer; what was put stays, and the next load goes on.
    """
    uri = storage.keyed_uri(run.settings.keyed.uri, run.settings.root)
    with run.stage(LoadFacts) as facts:
        with opened(run.settings) as store:
            facts.vectors = _load_vectors(run, store, uri)
            with run.turn("load-products"):  # which are of all spaces: an older run must not put them last
                facts.products, facts.deleted = _load_products(run, store, uri)
                if run.settings.keyed.reload:
                    facts.deleted += _delete_surplus(run, store)
        if facts.vectors or facts.products or facts.deleted:
            run.say(f"load: {facts.vectors} vectors, {facts.products} products, {facts.deleted} deleted")


def vectors_mark(space: str) -> str:
    """The store's mark of the `features` snapshot that was loaded last."""
    return f"vectors {space}"


def _span(run: Run, store: storage.KeyedStore, table: Table, mark: str) -> tuple[int | None, int | None]:
    """(last loaded, to load up to): snapshots of a table; the first is None where all of it is to be loaded."""
    before = None if run.settings.keyed.reload else store.get_mark(mark)
    known = before is not None and run.tables.has_snapshot(table, before)
    return before if known else None, run.tables.snapshot(table)


def _load_vectors(run: Run, store: storage.KeyedStore, uri: str) -> int:
    mark = vectors_mark(run.space.id)
    before, now = _span(run, store, FEATURES, mark)
    if now is None or now == before:
        return 0
    files = run.tables.files_of(FEATURES, "space", run.space.id, now, before)
    put = 0
    if files:
        # tasks read the files themselves: Spark would take each vector apart, number by number
        shares = run.tables.spread(pa.table({"uri": files}), store.writers)
        put, _ = _run(shares, _put_vectors(uri, run.space.id))
    store.set_mark(mark, now)
    return put


def _load_products(run: Run, store: storage.KeyedStore, uri: str) -> tuple[int, int]:
    before, now = _span(run, store, LISTINGS, PRODUCTS_MARK)
    if now is None or now == before:
        return 0, 0
    rows = run.tables.read(LISTINGS, now)
    if before is not None:
        old = run.tables.read(LISTINGS, before)
        changed = rows.exceptAll(old).unionByName(old.exceptAll(rows)).select("product_id").distinct()
        rows = rows.join(changed, "product_id", "left_semi")
    # a product's listings come one after the other, whatever their order
    listings = rows.select(*COLUMNS).repartition(store.writers, "product_id").sortWithinPartitions("product_id")
    put, deleted = _run(listings, _put_products(uri))
    store.set_mark(PRODUCTS_MARK, now)
    return put, deleted


def _delete_surplus(run: Run, store: storage.KeyedStore) -> int:
    """Deletes what no table knows; everything else was put just now."""
    warehouse = TableReader(run.settings)
    differences = [
        *consistency.compare_vectors(warehouse, store, run.space.id),
        *consistency.compare_products(warehouse, store),
    ]
    surplus = [item for item in differences if item.kind == "surplus"]
    store.delete_vectors([item.key for item in surplus if item.table == FEATURES.name], run.space.id)
    store.delete_products([item.key for item in surplus if item.table == LISTINGS.name])
    return len(surplus)


def _run(rows: DataFrame, work: Any) -> tuple[int, int]:
    try:
        done = arrow_map(rows, work, _DONE_DDL).toArrow()
    except PythonException as error:
        if found := re.search(rf"{ServiceError.__name__}: (.+)", str(error)):
            raise ServiceError(found[1]) from None
        raise
    return sum(done["put"].to_pylist()), sum(done["deleted"].to_pylist())


def _put_vectors(uri: str, space: str) -> Any:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        files = (uri for batch in batches for uri in batch.column("uri").to_pylist())
        blocks = _ahead(block for file in files for block in vectors(file, space))
        pairs = (pair for keys, rows in blocks for pair in zip(keys, rows, strict=True))
        with closing(storage.keyed(uri)) as store:
            yield _done(store.put_vectors(space, pairs), 0)

    return work


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next of which is made while one is used: files are read while the store is busy."""
    with ThreadPoolExecutor(1) as reader:
        waiting = reader.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = reader.submit(next, items, None)
            yield item


def _put_products(uri: str) -> Any:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        put, deleted = 0, 0
        found = fold(row for batch in batches for row in batch.to_pylist())
        with closing(storage.keyed(uri)) as store:
            while some := list(itertools.islice(found, _PRODUCTS)):
                gone = [product.product_id for product in some if not product.image_ids]
                store.delete_products(gone)
                put += store.put_products(product for product in some if product.image_ids)
                deleted += len(gone)
            yield _done(put, deleted)

    return work


def _done(put: int, deleted: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"put": put, "deleted": deleted}], schema=_DONE)
