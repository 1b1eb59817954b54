"""How vectors and facts lie in HBase: the tables, their keys and cells, and what a URI says of them."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from likeness.core.errors import UsageError
from likeness.storage.ports import Product

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


def product_key(product_id: str) -> bytes:
    """The row of a product: two digits of a hash, so that rows spread evenly, and the id itself."""
    key = product_id.encode()
    return hashlib.sha256(key).hexdigest()[:2].encode() + key


def product_cells(row: Product) -> dict[bytes, bytes]:
    """The cells of a product's row."""
    return {
        b"p:category": row.category.encode(),
        b"p:attributes": json.dumps(dict(row.attributes), ensure_ascii=False).encode(),
        b"p:image_ids": json.dumps(list(row.image_ids)).encode(),
    }


def product_of(key: str, cells: Mapping[bytes, bytes]) -> Product:
    """The product whose row has these cells."""
    images = tuple(json.loads(cells[b"p:image_ids"]))
    return Product(key, cells[b"p:category"].decode(), json.loads(cells[b"p:attributes"]), images)


def create_commands(place: Place) -> list[list[str]]:
    """HBase's own commands that make the large tables, split from the start on the first hexadecimal digits."""
    splitter = ["hbase", "org.apache.hadoop.hbase.util.RegionSplitter"]
    return [
        [*splitter, f"{place.name}_{name}", "HexStringSplit", "-c", str(place.regions), "-f", FAMILIES[name]]
        for name in (IMAGES, PRODUCTS)
    ]
