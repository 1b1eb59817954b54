"""The keyed store in one SQLite file: the embedded default."""

import itertools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from likeness.core.errors import ServiceError
from likeness.storage.items import Item, region_keys
from likeness.storage.ports import Product

_SCHEMA = """
-- `image_id` is the key of an item
CREATE TABLE IF NOT EXISTS vectors (image_id TEXT, space TEXT, vector BLOB, PRIMARY KEY (image_id, space));
CREATE TABLE IF NOT EXISTS products (product_id TEXT PRIMARY KEY, facts TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""
_BATCH = 500


class SqliteStore:
    """The keyed store in a table each for vectors (as little-endian float32), products and marks (as JSON).

    One process writes at a time, while others read.
    """

    writers = 1
    embedded = True

    def __init__(self, uri: str, create: bool = False) -> None:
        self._path = Path(uri.removeprefix("sqlite://"))
        try:
            if create:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            elif not self._path.exists():
                raise ServiceError(f"keyed.uri = {uri}: there is no such file; the load job creates and fills it")
            self._db = _opened(self._path)
        except (OSError, sqlite3.Error) as error:
            raise ServiceError(
                f"keyed.uri = {uri}: {error}; name a file in a writable folder as sqlite:///path"
            ) from None

    def put_vectors(self, space: str, rows: Iterable[tuple[Item, np.ndarray]]) -> int:
        """Stores the float32 vector of each item."""
        cells = ((item.key, space, np.asarray(vector, "<f4").tobytes()) for item, vector in rows)
        return self._put("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", cells)

    def get_vectors(self, space: str, items: Sequence[Item]) -> dict[Item, np.ndarray]:
        """The stored vectors of some items."""
        sql = "SELECT image_id, vector FROM vectors WHERE space = ? AND image_id IN"
        rows = self._get(sql, [item.key for item in items], space)
        return {Item.parse(key): np.frombuffer(cell, "<f4") for key, cell in rows}

    def scan_vectors(self, space: str) -> Iterator[tuple[Item, np.ndarray]]:
        """Every vector of a space, sorted by item."""
        sql = "SELECT image_id, vector FROM vectors WHERE space = ? ORDER BY image_id"
        for key, cell in self._rows(sql, space):
            yield Item.parse(key), np.frombuffer(cell, "<f4")

    def delete_vectors(self, space: str, items: Iterable[Item]) -> None:
        """Deletes the vectors of some items in one space."""
        sql = "DELETE FROM vectors WHERE image_id = ? AND space = ?"
        self._put(sql, ((item.key, space) for item in items))

    def delete_images(self, image_ids: Iterable[str]) -> None:
        """Deletes every vector of some images."""
        sql = "DELETE FROM vectors WHERE image_id = ? OR (image_id > ? AND image_id < ?)"
        self._put(sql, ((image_id, *region_keys(image_id)) for image_id in image_ids))

    def put_products(self, rows: Iterable[Product]) -> int:
        """Stores the facts of each product."""
        cells = ((row.product_id, json.dumps(vars(row), ensure_ascii=False)) for row in rows)
        return self._put("INSERT OR REPLACE INTO products VALUES (?, ?)", cells)

    def get_products(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """The stored facts of some products."""
        sql = "SELECT product_id, facts FROM products WHERE product_id IN"
        return {key: _product(key, cell) for key, cell in self._get(sql, product_ids)}

    def scan_products(self) -> Iterator[Product]:
        """Every product once, sorted by product_id."""
        for key, cell in self._rows("SELECT product_id, facts FROM products ORDER BY product_id"):
            yield _product(key, cell)

    def delete_products(self, product_ids: Sequence[str]) -> None:
        """Deletes products."""
        self._put("DELETE FROM products WHERE product_id = ?", ((key,) for key in product_ids))

    def purge(self) -> None:
        """Rewrites the file without deleted data."""
        with self._named_errors():
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def get_mark(self, name: str) -> Any:
        """A JSON value stored with the data."""
        row = next(self._rows("SELECT value FROM marks WHERE name = ?", name), None)
        return json.loads(row[0]) if row else None

    def set_mark(self, name: str, value: Any) -> None:
        """Stores a JSON value with the data."""
        self._put("INSERT OR REPLACE INTO marks VALUES (?, ?)", [(name, json.dumps(value))])

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _put(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> int:
        done = 0
        rows = iter(rows)
        while batch := list(itertools.islice(rows, _BATCH)):
            with self._named_errors(), self._db:
                self._db.executemany(sql, batch)
            done += len(batch)
        return done

    def _get(self, sql: str, keys: Sequence[str], *first: str) -> Iterator[tuple[str, Any]]:
        for start in range(0, len(keys), _BATCH):
            batch = list(keys[start : start + _BATCH])
            marks = ", ".join("?" * len(batch))
            yield from self._rows(f"{sql} ({marks})", *first, *batch)

    def _rows(self, sql: str, *values: str) -> Iterator[tuple[Any, ...]]:
        with self._named_errors(), closing(self._db.execute(sql, values)) as cursor:
            yield from cursor

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ServiceError(f"keyed store {self._path}: {error}; is the disk full or the file in use?") from None


def _opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(_SCHEMA)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _product(key: str, cell: str) -> Product:
    facts = json.loads(cell)
    return Product(key, facts["category"], facts["attributes"], tuple(facts["image_ids"]))
