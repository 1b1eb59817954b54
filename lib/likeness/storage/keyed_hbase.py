"""The keyed store in HBase, over its Thrift servers.   [happybase]"""

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from happybase import Connection

from likeness.core.errors import ServiceError
from likeness.storage import hbase_layout
from likeness.storage.hbase_layout import FAMILIES, IMAGES, MARKS, PRODUCTS, parse_product, product_key
from likeness.storage.hbase_pool import HbasePool
from likeness.storage.items import Item, region_keys
from likeness.storage.ports import Product

_BATCH_BYTES, _BATCH_ROWS = 4_000_000, 500
_SCAN_BYTES = 4_000_000
_OPEN_S = 12.0
Row = tuple[bytes, Mapping[bytes, bytes] | None]
"""The key of a row, and its cells by column."""


class HbaseStore:
    """The keyed store in three tables of HBase; `hbase_layout` describes their keys and cells.

    All calls are idempotent, so after a transient failure (a dead server, a region that moves or is busy) a call is
    retried for `retry_s` seconds, on another Thrift server if there is one.
    """

    def __init__(self, uri: str, create: bool = False) -> None:
        self._config = hbase_layout.parse_uri(uri)
        self.writers, self.embedded = self._config.writers, False
        self._pool = HbasePool(self._config)
        try:
            missing = self._missing()
            if missing and not create:
                raise ServiceError(
                    f"keyed.uri = {uri}: HBase has no table {', '.join(self._table(name) for name in missing)}",
                    "create them with `likeness hbase-init`",
                )
            self._create(missing)
        except ServiceError:
            self.close()
            raise

    def put_vectors(self, space: str, rows: Iterable[tuple[Item, np.ndarray]]) -> int:
        """Stores the float32 vector of each item."""
        column = f"v:{space}".encode()
        cells = ((item.key.encode(), {column: np.asarray(vector, "<f4").tobytes()}) for item, vector in rows)
        return self._send("put", IMAGES, cells)

    def get_vectors(self, space: str, items: Sequence[Item]) -> dict[Item, np.ndarray]:
        """The stored vectors of some items."""
        column = f"v:{space}".encode()
        rows = self._get(IMAGES, {item.key.encode(): item.key for item in items}, [column])
        return {Item.parse(key): np.frombuffer(cells[column], "<f4") for key, cells in rows}

    def scan_vectors(self, space: str) -> Iterator[tuple[Item, np.ndarray]]:
        """Every vector of a space, sorted by item."""
        column = f"v:{space}".encode()
        for key, cells in self._scan(IMAGES, [column]):
            yield Item.parse(key.decode()), np.frombuffer(cells[column], "<f4")

    def delete_vectors(self, space: str, items: Iterable[Item]) -> None:
        """Deletes the vectors of some items in one space."""
        self._send("delete", IMAGES, ((item.key.encode(), {f"v:{space}".encode(): b""}) for item in items))

    def delete_images(self, image_ids: Iterable[str]) -> None:
        """Deletes every vector of some images; each takes a scan for its regions."""
        keys: list[bytes] = []
        for image_id in image_ids:
            first, last = region_keys(image_id)
            regions = self._scan(IMAGES, [], first.encode(), last.encode())
            keys += [image_id.encode(), *(key for key, _ in regions)]
        self._send("delete", IMAGES, ((key, None) for key in keys))

    def put_products(self, rows: Iterable[Product]) -> int:
        """Stores the facts of each product."""
        cells = ((product_key(row.product_id), hbase_layout.product_cells(row)) for row in rows)
        return self._send("put", PRODUCTS, cells)

    def get_products(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """The stored facts of some products."""
        keys = {product_key(key): key for key in dict.fromkeys(product_ids)}
        return {key: parse_product(key, cells) for key, cells in self._get(PRODUCTS, keys, [b"p"])}

    def scan_products(self) -> Iterator[Product]:
        """Every product once, sorted by row key, which begins with a hash."""
        for key, cells in self._scan(PRODUCTS, [b"p"]):
            yield parse_product(key[2:].decode(), cells)

    def delete_products(self, product_ids: Sequence[str]) -> None:
        """Deletes products."""
        self._send("delete", PRODUCTS, ((product_key(key), None) for key in product_ids))

    def purge(self) -> None:
        """Requests major compactions, which run in the background and remove deleted data from disk."""

        def ask(connection: Connection) -> None:
            for name in FAMILIES:
                connection.compact_table(self._table(name), major=True)

        self._pool.call(ask)

    def get_mark(self, name: str) -> Any:
        """A JSON value stored with the data."""
        cells = dict(self._get(MARKS, {name.encode(): name}, [b"m"]))
        return json.loads(cells[name][b"m:value"]) if name in cells else None

    def set_mark(self, name: str, value: Any) -> None:
        """Stores a JSON value with the data."""
        self._send("put", MARKS, [(name.encode(), {b"m:value": json.dumps(value).encode()})])

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close()

    def _table(self, name: str) -> str:
        return f"{self._config.name}_{name}"

    def _missing(self) -> list[str]:
        existing = self._pool.call(lambda connection: connection.tables(), _OPEN_S)
        return [name for name in FAMILIES if self._table(name).encode() not in existing]

    def _create(self, missing: Sequence[str]) -> None:
        """Creates missing tables. Thrift cannot pre-split a table, so HBase's own command does it."""
        uri = self._config.uri
        for name, command in zip((IMAGES, PRODUCTS), hbase_layout.create_commands(self._config), strict=True):
            if name not in missing:
                continue
            if not shutil.which("hbase"):
                raise ServiceError(
                    f"keyed.uri = {uri}: the table {self._table(name)} is missing, and the command `hbase` that "
                    f"creates it is not on PATH; run this where HBase is installed: {' '.join(command)}"
                )
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            if name in self._missing():
                lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
                raise ServiceError(f"keyed.uri = {uri}: `{' '.join(command)}` failed: {' '.join(lines)}")
        if MARKS in missing:
            with suppress(ServiceError):  # another process may create it at the same time
                self._pool.call(lambda connection: connection.create_table(self._table(MARKS), {FAMILIES[MARKS]: {}}))

    def _send(self, action: Literal["put", "delete"], table: str, rows: Iterable[Row]) -> int:
        """Puts cells by row key, or deletes columns (of None: all) by row key, in batches; returns how many rows."""
        done = 0
        for batch in _batches(rows):
            # of one key put twice only the later value is sent: in one call both would get the same timestamp
            def send(connection: Connection, cells_of: Mapping[bytes, Any] = dict(batch)) -> None:
                mutations = connection.table(self._table(table)).batch()
                for key, cells in cells_of.items():
                    getattr(mutations, action)(key, cells)
                mutations.send()

            self._pool.call(send)
            done += len(batch)
        return done

    def _get(
        self, table: str, keys: Mapping[bytes, str], columns: Sequence[bytes]
    ) -> Iterator[tuple[str, dict[bytes, bytes]]]:
        for start in range(0, len(keys), _BATCH_ROWS):

            def ask(connection: Connection, batch: Iterable[bytes] = list(keys)[start : start + _BATCH_ROWS]) -> Any:
                return connection.table(self._table(table)).rows(batch, columns=list(columns))

            for key, cells in self._pool.call(ask):
                yield keys[key], cells

    def _scan(
        self, table: str, columns: Sequence[bytes], start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        """Rows from one key to before another, read in pages: a page that fails is read again after the last row."""
        rows = 16
        while True:

            def ask(connection: Connection, start: bytes = start, rows: int = rows) -> list[Any]:
                scan = connection.table(self._table(table)).scan(
                    row_start=start, row_stop=stop, columns=list(columns), limit=rows, batch_size=rows
                )
                return list(scan)

            page = self._pool.call(ask)
            yield from page
            if len(page) < rows:
                return
            start = page[-1][0] + b"\0"
            size = sum(len(cell) for _, cells in page for cell in cells.values()) // rows
            rows = max(16, min(10_000, _SCAN_BYTES // (size + 1)))


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch, size = list[Row](), 0
    for key, cells in rows:
        batch.append((key, cells))
        size += len(key) + sum(map(len, (cells or {}).values()))
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
