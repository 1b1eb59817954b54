"""Load: changes of `features` and `listings` since the last load in, rows of the keyed store out.   [pyspark]

The store itself keeps the snapshots of the last load, so they always agree with its rows; puts may be repeated.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import pyarrow as pa
from pyspark.errors import PythonException
from pyspark.sql import DataFrame

from likeness import storage
from likeness.catalog.products import COLUMNS, fold
from likeness.core.errors import ServiceError
from likeness.core.progress import Reporter
from likeness.core.settings import Settings
from likeness.ops import consistency
from likeness.spark.arrow_map import Work, arrow_map, rows_of
from likeness.spark.run import Run
from likeness.storage.data_files import vectors
from likeness.storage.items import Item
from likeness.storage.run_facts import LoadFacts
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS, Table

T = TypeVar("T")
_COUNTS = pa.schema([("put", pa.int64()), ("deleted", pa.int64())])
_BATCH_PRODUCTS = 1000
PRODUCTS_MARK = "products"
"""Name of the store's mark that holds the last loaded snapshot of `listings`."""


def warn_if_store_down(settings: Settings, reporter: Reporter) -> None:
    """Warns at once if the keyed store does not answer: extraction, which comes before the load, may take hours."""
    try:
        with open_keyed_store(settings):
            pass
    except ServiceError as error:
        reporter.say(f"load: {error} – the run goes on, and tries to load after the extraction")


def open_keyed_store(settings: Settings) -> "closing[storage.KeyedStore]":
    """Opens the keyed store of the settings for a `with` block, and creates it if it is missing.

    Raises:
        ServiceError: the store does not answer.
    """
    return closing(storage.keyed(storage.keyed_uri(settings.keyed.uri, settings.root), create=True))


def load(run: Run) -> None:
    """Updates the keyed store from the tables.

    Raises:
        ServiceError: the store does not answer; rows put so far stay, and the next load continues.
    """
    uri = storage.keyed_uri(run.settings.keyed.uri, run.settings.root)
    with run.stage(LoadFacts) as facts:
        with open_keyed_store(run.settings) as store:
            facts.vectors = _load_vectors(run, store, uri)
            with run.lock("load-products"):  # all spaces share products: an older run must not overwrite newer rows
                facts.products, facts.deleted = _load_products(run, store, uri)
                if run.settings.keyed.reload:
                    facts.deleted += _delete_surplus(run, store)
        if facts.vectors or facts.products or facts.deleted:
            run.say(f"load: {facts.vectors} vectors, {facts.products} products, {facts.deleted} deleted")


def vectors_mark(space: str) -> str:
    """Name of the store's mark that holds the last loaded snapshot of `features` for a space."""
    return f"vectors {space}"


def _span(run: Run, store: storage.KeyedStore, table: Table, mark: str) -> tuple[int | None, int | None]:
    """Two snapshots of a table: the last loaded one, None to load all rows; and the current one."""
    before = None if run.settings.keyed.reload else store.get_mark(mark)
    return before if before in run.tables.snapshots(table) else None, run.tables.snapshot(table)


def _load_vectors(run: Run, store: storage.KeyedStore, uri: str) -> int:
    mark = vectors_mark(run.space.id)
    before, now = _span(run, store, FEATURES, mark)
    if now is None or now == before:
        return 0
    put, files = 0, run.tables.files_of(FEATURES, "space", run.space.id, now, before)
    if files:
        # tasks read the files with pyarrow: Spark would convert each vector number by number
        shares = run.tables.spread(pa.table({"uri": files}), store.writers)
        put, _ = _run(shares, functools.partial(_put_vectors, uri, run.space.id))
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
    # `fold` needs the listings of a product to follow each other, in any order
    listings = rows.select(*COLUMNS).repartition(store.writers, "product_id").sortWithinPartitions("product_id")
    put, deleted = _run(listings, functools.partial(_put_products, uri))
    store.set_mark(PRODUCTS_MARK, now)
    return put, deleted


def _delete_surplus(run: Run, store: storage.KeyedStore) -> int:
    """Deletes the rows of the store that have no row in the tables."""
    tables = TableReader(run.settings)
    compared = consistency.compare_vectors(tables, store, run.space.id), consistency.compare_products(tables, store)
    surplus = [row for rows in compared for row in rows if row.kind == "surplus"]
    store.delete_vectors(run.space.id, [Item.parse(row.key) for row in surplus if row.table == FEATURES.name])
    store.delete_products([row.key for row in surplus if row.table == LISTINGS.name])
    return len(surplus)


def _run(rows: DataFrame, work: Work) -> tuple[int, int]:
    try:
        counts = arrow_map(rows, work, _COUNTS).toArrow()
    except PythonException as error:
        if message := re.search(rf"{ServiceError.__name__}: (.+)", str(error)):
            raise ServiceError(message[1]) from None
        raise
    return sum(counts["put"].to_pylist()), sum(counts["deleted"].to_pylist())


def _put_vectors(uri: str, space: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    blocks = _prefetched(block for file in rows_of(batches) for block in vectors(file["uri"], space))
    pairs = (pair for keys, rows in blocks for pair in zip(map(Item.parse, keys), rows, strict=True))
    with closing(storage.keyed(uri)) as store:
        yield _counts(store.put_vectors(space, pairs), 0)


def _prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same items, each prepared while the one before is used: files are read while the store is busy."""
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(next, items, None)
        while (item := following.result()) is not None:
            following = reader.submit(next, items, None)
            yield item


def _put_products(uri: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    put, deleted, products = 0, 0, fold(batches)
    with closing(storage.keyed(uri)) as store:
        while batch := list(itertools.islice(products, _BATCH_PRODUCTS)):
            withdrawn = [product.product_id for product in batch if not product.image_ids]
            store.delete_products(withdrawn)
            put += store.put_products(product for product in batch if product.image_ids)
            deleted += len(withdrawn)
        yield _counts(put, deleted)


def _counts(put: int, deleted: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"put": put, "deleted": deleted}], schema=_COUNTS)
