"""The layout of the keyed store in HBase: tables, keys and cells, and the parameters in its URI."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from urllib.parse import parse_qsl, urlsplit

from likeness.core.errors import UsageError
from likeness.storage.ports import Product

FORM = "hbase://host:port[,host:port...]/name"
IMAGES, PRODUCTS, MARKS = "images", "products", "marks"


@dataclass(frozen=True)
class TableLayout:
    """An HBase table: the suffix of its name, its column family, and the meaning of its keys and cells."""

    name: str
    family: str
    key: str
    cells: str


TABLE_LAYOUTS = (
    TableLayout(
        IMAGES,
        "v",
        "image_id, hexadecimal, of a whole photo; image_id/region of a region: hashes spread evenly",
        "a qualifier for each feature space: little-endian float32",
    ),
    TableLayout(
        PRODUCTS,
        "p",
        "two hexadecimal digits of the SHA-256 of product_id, and product_id in UTF-8",
        "`category`: text; `attributes`: a JSON object of text; `image_ids`: a JSON list",
    ),
    TableLayout(MARKS, "m", "name of a mark, such as the last loaded snapshot of a table", "`value`: JSON"),
)
FAMILIES = {layout.name: layout.family for layout in TABLE_LAYOUTS}


@dataclass(frozen=True)
class HbaseConfig:
    """Parameters of a URI: Thrift servers, the prefix of the tables' names, timeouts and retries."""

    uri: str
    servers: Sequence[tuple[str, int]]
    name: str
    writers: int = 4
    timeout_s: float = 20.0
    retry_s: float = 180.0
    transport: str = "buffered"
    protocol: str = "binary"
    regions: int = 16


def parse_uri(uri: str) -> HbaseConfig:
    """Reads `hbase://host:port,host:port/name?writers=4&timeout_s=20&retry_s=180&regions=16`.

    Raises:
        UsageError: the URI is malformed, or an option is unknown.
    """
    parts = urlsplit(uri)
    name = parts.path.strip("/")
    servers = []
    for server in parts.netloc.split(","):
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise UsageError(f"keyed.uri = {uri!r}: {server!r} is not host:port of a Thrift server; write {FORM}")
        servers.append((host, int(port)))
    if not name or not name.replace("_", "").replace("-", "").replace(":", "").isalnum():
        raise UsageError(f"keyed.uri = {uri!r}: {name!r} cannot be the prefix of a table's name; write {FORM}")
    kinds = {option.name: type(option.default) for option in fields(HbaseConfig) if option.default is not MISSING}
    options = {}
    for key, value in parse_qsl(parts.query):
        try:
            options[key] = kinds[key](value)
        except (KeyError, ValueError):
            names = ", ".join(kinds)
            raise UsageError(f"keyed.uri = {uri!r}: option {key}={value} is not understood; known: {names}") from None
    return HbaseConfig(uri, servers, name, **options)


def product_key(product_id: str) -> bytes:
    """The row key of a product: two digits of a hash, so that rows spread evenly, and its id."""
    key = product_id.encode()
    return hashlib.sha256(key).hexdigest()[:2].encode() + key


def product_cells(row: Product) -> dict[bytes, bytes]:
    """The cells of a row of `products`."""
    return {
        b"p:category": row.category.encode(),
        b"p:attributes": json.dumps(dict(row.attributes), ensure_ascii=False).encode(),
        b"p:image_ids": json.dumps(list(row.image_ids)).encode(),
    }


def parse_product(key: str, cells: Mapping[bytes, bytes]) -> Product:
    """The product of a row of `products`."""
    images = tuple(json.loads(cells[b"p:image_ids"]))
    return Product(key, cells[b"p:category"].decode(), json.loads(cells[b"p:attributes"]), images)


def create_commands(config: HbaseConfig) -> list[list[str]]:
    """HBase's commands that create the large tables, pre-split on the first hexadecimal digits."""
    splitter = ["hbase", "org.apache.hadoop.hbase.util.RegionSplitter"]
    return [
        [*splitter, f"{config.name}_{name}", "HexStringSplit", "-c", str(config.regions), "-f", FAMILIES[name]]
        for name in (IMAGES, PRODUCTS)
    ]
