"""Reads of the keyed store at query time: within a budget of time, past a circuit breaker, and cached.   [cachetools]

A store that hangs or is down costs a query its budget at most. After some failures in a row no query waits any more;
one query in a few seconds tries whether it answers again. A store that is a file of this machine is read at once.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from cachetools import TTLCache

from likeness.core.errors import LikenessError, ServiceError
from likeness.storage import KeyedStore, Product
from likeness.storage.items import Item

T = TypeVar("T")
_THREADS, _FAILURES, _RETRY_S = 32, 3, 5.0
_PRODUCTS, _FRESH_S = 50_000, 60.0
"""Products whose facts are kept, and for how many seconds."""
_ROWS_BYTES = 64 << 20
"""Bytes of vectors of products that are kept, for as long."""


class KeyedReader:
    """Reads one keyed store, which is opened by the first read. May be shared by threads."""

    def __init__(self, open_store: Callable[[], KeyedStore], within_s: float) -> None:
        """`within_s` is the budget of a read that names none, in seconds."""
        self._open, self._within_s = open_store, within_s
        self._store: KeyedStore | None = None
        self._opening, self._lock = threading.Lock(), threading.Lock()
        self._pool = ThreadPoolExecutor(_THREADS, "keyed store")
        self._failures, self._retry_at, self._error = 0, 0.0, ""
        self._products: TTLCache[str, Product | None] = TTLCache(_PRODUCTS, _FRESH_S)
        self._rows: TTLCache[tuple[str, tuple[str, ...]], np.ndarray] = TTLCache(
            _ROWS_BYTES, _FRESH_S, getsizeof=lambda rows: rows.nbytes
        )

    def products(self, product_ids: Sequence[str], within_s: float | None = None) -> dict[str, Product]:
        """Facts of the products that the store holds, at most a minute old.

        Raises:
            ServiceError: the store does not answer within the budget, or did not for the queries before.
        """
        with self._lock:
            cached = {name: self._products[name] for name in product_ids if name in self._products}
        if missing := [name for name in product_ids if name not in cached]:
            read = self._read(lambda store: store.get_products(missing), within_s)
            cached |= {name: read.get(name) for name in missing}
            with self._lock:
                self._products.update({name: cached[name] for name in missing})
        return {name: product for name in product_ids if (product := cached[name])}

    def vectors(self, space: str, items: Sequence[Item], within_s: float | None = None) -> Mapping[Item, np.ndarray]:
        """Vectors, float32 (dim,), of the items that have one in a space. Errors as of `products`."""
        return self._read(lambda store: store.get_vectors(space, items), within_s)

    def product_vectors(self, space: str, product: Product) -> np.ndarray:
        """Vectors of the photos of a product that have one, float32 (n, dim) or (0, 0), at most a minute old.

        Errors as of `products`.
        """
        name = (space, tuple(product.image_ids))
        with self._lock:
            rows = self._rows.get(name)
        if rows is None:
            vectors = self.vectors(space, [Item(image_id) for image_id in product.image_ids])
            rows = np.stack([vectors[item] for item in sorted(vectors)]) if vectors else np.zeros((0, 0), np.float32)
            if 0 < rows.nbytes <= _ROWS_BYTES:
                with self._lock:
                    self._rows[name] = rows
        return rows

    def close(self) -> None:
        """Closes the store; a later read opens it again."""
        with self._opening:
            if self._store:
                self._store.close()
                self._store = None

    def _read(self, read: Callable[[KeyedStore], T], within_s: float | None) -> T:
        if self._store is not None and self._store.embedded:
            return read(self._store)
        budget = self._within_s if within_s is None else within_s
        with self._lock:
            if self._failures >= _FAILURES:
                if (left := self._retry_at - time.monotonic()) > 0:
                    raise ServiceError(f"keyed store: {self._error}; it is tried again in {left:.0f} s")
                self._retry_at = time.monotonic() + _RETRY_S  # this query tries, others go on without
        reading = self._pool.submit(lambda: read(self._opened()))
        try:
            result = reading.result(budget)
        except TimeoutError:
            reading.cancel()
            error: LikenessError = ServiceError(f"keyed store: no answer within {1000 * budget:.0f} ms")
        except LikenessError as failure:
            error = failure
        else:
            self._failures = 0
            return result
        with self._lock:
            self._failures, self._error = self._failures + 1, error.message.removeprefix("keyed store: ")
            self._retry_at = time.monotonic() + _RETRY_S
        raise error

    def _opened(self) -> KeyedStore:
        if self._store is None:
            with self._opening:
                if self._store is None:
                    self._store = self._open()
        return self._store
