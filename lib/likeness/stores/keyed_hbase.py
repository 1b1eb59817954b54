"""The keyed store in HBase, over its Thrift servers.   [happybase, tenacity]

Three tables, their names begun by what the URI ends with (`hbase://host:port,host:port/likeness`):
`likeness_images` has a row an image and in family `v` a qualifier a feature space, `likeness_products` a row a
product with its facts in family `p`, `likeness_marks` the marks in family `m`.
"""

import hashlib
import itertools
import json
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import happybase
import numpy as np
from happybase import Connection
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter
from thriftpy2.thrift import TException

from likeness.errors import ServiceError, UsageError
from likeness.stores.ports import Product

T = TypeVar("T")
FORM = "hbase://host:port[,host:port...]/name"
IMAGES, PRODUCTS, MARKS = "images", "products", "marks"


@dataclass(frozen=True)
class Layout:
    """One table: the end of its name, its family, and what its keys and cells are."""

    name: str
    family: str
    key: str
    cells: str


LAYOUT = (
    Layout(
        IMAGES,
        "v",
        "image_id, hexadecimal: a hash spreads evenly",
        "a qualifier a feature space: little-endian float32",
    ),
    Layout(
        PRODUCTS,
        "p",
        "two hexadecimal digits of the SHA-256 of product_id, and product_id in UTF-8",
        "`category`: text; `attributes`: a JSON object of text; `image_ids`: a JSON list",
    ),
    Layout(MARKS, "m", "what is marked, such as how far a load came", "`value`: JSON"),
)
FAMILIES = {layout.name: layout.family for layout in LAYOUT}
_BATCH_BYTES, _BATCH_ROWS = 2_000_000, 500
_SCAN_BYTES = 4_000_000
_OPEN_S = 15.0
_PERMANENT = ("TableNotFound", "TableNotEnabled", "NoSuchColumnFamily", "AccessDenied", "DoNotRetry", "Illegal")


@dataclass(frozen=True)
class Place:
    """What a URI says: Thrift servers, the beginning of the tables' names, and how patient to be."""

    uri: str
    servers: Sequence[tuple[str, int]]
    name: str
    writers: int = 4
    timeout_s: float = 20.0
    retry_s: float = 180.0
    transport: str = "buffered"
    protocol: str = "binary"
    regions: int = 16


def parse(uri: str) -> Place:
    """Reads `hbase://host:port,host:port/name?writers=4&timeout_s=20&retry_s=180&regions=16`.

    Raises:
        UsageError: naming what is wrong.
    """
    parts = urlsplit(uri)
    name = parts.path.strip("/")
    servers = []
    for server in parts.netloc.split(","):
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise UsageError(f"keyed.uri = {uri!r}: {server!r} is no host:port of a Thrift server; write {FORM}")
        servers.append((host, int(port)))
    if not name or not name.replace("_", "").replace("-", "").replace(":", "").isalnum():
        raise UsageError(f"keyed.uri = {uri!r}: {name!r} cannot begin a table's name; write {FORM}")
    kinds: dict[str, Callable[[str], Any]] = {
        "writers": int,
        "timeout_s": float,
        "retry_s": float,
        "transport": str,
        "protocol": str,
        "regions": int,
    }
    options = {}
    for key, value in parse_qsl(parts.query):
        try:
            options[key] = kinds[key](value)
        except (KeyError, ValueError):
            known = ", ".join(kinds)
            raise UsageError(f"keyed.uri = {uri!r}: option {key}={value} is not understood; known: {known}") from None
    return Place(uri, servers, name, **options)


class HbaseStore:
    """Vectors as little-endian float32, facts as text and JSON.

    Every call may be repeated without harm, so a call that fails in passing (a dead server, a region that
    moves, a busy one) is tried again, on another Thrift server if there is one, until `retry_s` have gone by.
    """

    def __init__(self, uri: str, create: bool = False) -> None:
        self._place = parse(uri)
        self.writers = self._place.writers
        self._servers = _Servers(self._place)
        try:
            missing = self._missing()
            if missing and create:
                _create(self._place, self._servers, missing)
        except ServiceError:
            self.close()
            raise
        if missing and not create:
            self.close()
            raise ServiceError(
                f"keyed.uri = {uri}: HBase has no table {', '.join(self._table(name) for name in missing)}; "
                "make them with `likeness hbase-init`"
            )

    def put_vectors(self, space: str, rows: Iterable[tuple[str, np.ndarray]]) -> int:
        """Stores float32 vectors by image_id."""
        column = f"v:{space}".encode()
        return self._put(IMAGES, ((key.encode(), {column: np.asarray(v, "<f4").tobytes()}) for key, v in rows))

    def get_vectors(self, space: str, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """The stored vectors."""
        column = f"v:{space}".encode()
        keys = list(dict.fromkeys(image_ids))
        found = self._get(IMAGES, {key.encode(): key for key in keys}, [column])
        return {key: np.frombuffer(cells[column], "<f4") for key, cells in found}

    def scan_vectors(self, space: str) -> Iterator[tuple[str, np.ndarray]]:
        """Every vector of a space, in the order of image_id."""
        column = f"v:{space}".encode()
        for key, cells in self._scan(IMAGES, [column]):
            yield key.decode(), np.frombuffer(cells[column], "<f4")

    def delete_vectors(self, image_ids: Sequence[str], space: str = "") -> None:
        """Deletes the vectors of images, in every space if none is named."""
        self._delete(IMAGES, [key.encode() for key in image_ids], [f"v:{space}".encode()] if space else None)

    def put_products(self, rows: Iterable[Product]) -> int:
        """Stores facts by product_id."""
        return self._put(PRODUCTS, ((product_key(row.product_id), _cells(row)) for row in rows))

    def get_products(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """The stored facts."""
        keys = {product_key(key): key for key in dict.fromkeys(product_ids)}
        return {key: _product(key, cells) for key, cells in self._get(PRODUCTS, keys, [b"p"])}

    def scan_products(self) -> Iterator[Product]:
        """Every product once, in the order of the hashes of product_id."""
        for key, cells in self._scan(PRODUCTS, [b"p"]):
            yield _product(key[2:].decode(), cells)

    def delete_products(self, product_ids: Sequence[str]) -> None:
        """Deletes products."""
        self._delete(PRODUCTS, [product_key(key) for key in product_ids])

    def get_mark(self, name: str) -> Any:
        """A JSON value kept with the data."""
        cells = dict(self._get(MARKS, {name.encode(): name}, [b"m"]))
        return json.loads(cells[name][b"m:value"]) if name in cells else None

    def set_mark(self, name: str, value: Any) -> None:
        """Keeps a JSON value with the data."""
        self._put(MARKS, [(name.encode(), {b"m:value": json.dumps(value).encode()})])

    def close(self) -> None:
        """Closes the connections."""
        self._servers.close()

    def _table(self, name: str) -> str:
        return f"{self._place.name}_{name}"

    def _missing(self) -> list[str]:
        there = self._servers.call(lambda connection: connection.tables(), _OPEN_S)
        return [name for name in FAMILIES if self._table(name).encode() not in there]

    def _put(self, table: str, rows: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> int:
        done = 0
        for batch in _batches(rows):
            # of one key put twice the later stands: in one call to HBase both would get the same time
            latest = dict(batch)

            def send(connection: Connection, latest: Mapping[bytes, dict[bytes, bytes]] = latest) -> None:
                mutations = connection.table(self._table(table)).batch()
                for key, cells in latest.items():
                    mutations.put(key, cells)
                mutations.send()

            self._servers.call(send)
            done += len(batch)
        return done

    def _delete(self, table: str, keys: Sequence[bytes], columns: Sequence[bytes] | None = None) -> None:
        for batch in _chunks(keys):

            def send(connection: Connection, batch: Sequence[bytes] = batch) -> None:
                mutations = connection.table(self._table(table)).batch()
                for key in batch:
                    mutations.delete(key, columns)
                mutations.send()

            self._servers.call(send)

    def _get(
        self, table: str, keys: Mapping[bytes, str], columns: Sequence[bytes]
    ) -> Iterator[tuple[str, dict[bytes, bytes]]]:
        for batch in _chunks(list(keys)):

            def ask(connection: Connection, batch: Sequence[bytes] = batch) -> Any:
                return connection.table(self._table(table)).rows(list(batch), columns=list(columns))

            for key, cells in self._servers.call(ask):
                yield keys[key], cells

    def _scan(self, table: str, columns: Sequence[bytes]) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        """Pages of rows: a page that fails is asked for again from the row after the last."""
        start, rows = b"", 16
        while True:

            def ask(connection: Connection, start: bytes = start, rows: int = rows) -> list[Any]:
                scan = connection.table(self._table(table)).scan(
                    row_start=start, columns=list(columns), limit=rows, batch_size=rows
                )
                return list(scan)

            page = self._servers.call(ask)
            yield from page
            if len(page) < rows:
                return
            start = page[-1][0] + b"\0"
            size = sum(len(cell) for _, cells in page for cell in cells.values()) // rows
            rows = max(16, min(10_000, _SCAN_BYTES // (size + 1)))


class _Servers:
    """Connections to any of the Thrift servers; those not in use wait here for the next call."""

    def __init__(self, place: Place) -> None:
        self._place, self._idle, self._closed = place, list[Connection](), False
        self._lock, self._turn = threading.Lock(), itertools.count(random.randrange(len(place.servers)))

    def call(self, work: Callable[[Connection], T], patience_s: float | None = None) -> T:
        """Does one repeatable piece of work.

        Raises:
            ServiceError: it failed for good, or time and again.
        """
        limit = self._place.retry_s if patience_s is None else patience_s
        tries = Retrying(
            retry=retry_if_exception(_passing),
            wait=wait_exponential_jitter(multiplier=0.2, max=5),
            stop=stop_after_delay(limit),
            reraise=True,
        )
        try:
            answer: T = tries(self._once, work, None if patience_s is None else min(10.0, self._place.timeout_s))
            return answer
        except (OSError, TException) as error:
            raise ServiceError(
                f"keyed.uri = {self._place.uri}: {_told(error)}; "
                "are HBase and its Thrift servers up, and are host and port right?"
            ) from None

    def _once(self, work: Callable[[Connection], T], timeout_s: float | None) -> T:
        connection = self._take(timeout_s)
        try:
            answer = work(connection)
        except BaseException:
            _close(connection)  # what it was about to say is not for the next caller
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return answer
        _close(connection)
        return answer

    def _take(self, timeout_s: float | None) -> Connection:
        with self._lock:
            if self._closed:
                raise ServiceError(f"keyed.uri = {self._place.uri}: the store was closed; open it again")
            if self._idle:
                return self._idle.pop()
        failed: OSError | TException | None = None
        for _ in self._place.servers:
            host, port = self._place.servers[next(self._turn) % len(self._place.servers)]
            try:
                return happybase.Connection(
                    host,
                    port,
                    timeout=int(1000 * (timeout_s or self._place.timeout_s)),
                    table_prefix=None,
                    transport=self._place.transport,
                    protocol=self._place.protocol,
                )
            except (OSError, TException) as error:
                failed = error
        assert failed is not None
        raise failed

    def close(self) -> None:
        """Closes what is idle; what is in use is closed when it comes back."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for connection in idle:
            _close(connection)


def product_key(product_id: str) -> bytes:
    """The row of a product: two digits of a hash, so that rows spread evenly, and the id itself."""
    key = product_id.encode()
    return hashlib.sha256(key).hexdigest()[:2].encode() + key


def create_commands(place: Place) -> list[list[str]]:
    """HBase's own commands that make the large tables, split from the start on the first hexadecimal digits."""
    splitter = ["hbase", "org.apache.hadoop.hbase.util.RegionSplitter"]
    return [
        [*splitter, f"{place.name}_{name}", "HexStringSplit", "-c", str(place.regions), "-f", FAMILIES[name]]
        for name in (IMAGES, PRODUCTS)
    ]


def _create(place: Place, servers: _Servers, missing: Sequence[str]) -> None:
    """Makes missing tables. Thrift cannot split a table at its creation, so HBase's own command does it."""
    for name, command in zip((IMAGES, PRODUCTS), create_commands(place), strict=True):
        if name not in missing:
            continue
        if not shutil.which("hbase"):
            raise ServiceError(
                f"keyed.uri = {place.uri}: the table {place.name}_{name} is missing, and the command `hbase` that "
                f"makes it is not on PATH; run this where HBase is installed: {' '.join(command)}"
            )
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        there = servers.call(lambda connection: connection.tables(), _OPEN_S)
        if f"{place.name}_{name}".encode() not in there:
            told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
            raise ServiceError(f"keyed.uri = {place.uri}: `{' '.join(command)}` failed: {' '.join(told)}")
    if MARKS in missing:
        with suppress(ServiceError):  # another may make it at the same time
            servers.call(lambda connection: connection.create_table(f"{place.name}_{MARKS}", {FAMILIES[MARKS]: {}}))


def _batches(rows: Iterable[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[list[tuple[bytes, dict[bytes, bytes]]]]:
    batch: list[tuple[bytes, dict[bytes, bytes]]] = []
    held = 0
    for key, cells in rows:
        batch.append((key, cells))
        held += len(key) + sum(map(len, cells.values()))
        if held >= _BATCH_BYTES or len(batch) >= _BATCH_ROWS:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _chunks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(keys), _BATCH_ROWS):
        yield keys[start : start + _BATCH_ROWS]


def _cells(row: Product) -> dict[bytes, bytes]:
    return {
        b"p:category": row.category.encode(),
        b"p:attributes": json.dumps(dict(row.attributes), ensure_ascii=False).encode(),
        b"p:image_ids": json.dumps(list(row.image_ids)).encode(),
    }


def _product(key: str, cells: Mapping[bytes, bytes]) -> Product:
    images = tuple(json.loads(cells[b"p:image_ids"]))
    return Product(key, cells[b"p:category"].decode(), json.loads(cells[b"p:attributes"]), images)


def _passing(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, OSError | TException) and not any(name in _told(error) for name in _PERMANENT)


def _told(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error)
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
    return (lines[0] if lines else type(error).__name__)[:500]


def _close(connection: Connection) -> None:
    with suppress(OSError, TException):
        connection.close()
