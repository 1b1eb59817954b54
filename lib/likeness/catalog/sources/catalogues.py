"""A catalogue file (CSV, JSON lines, Parquet) to rows: product_id, image, category, active, attributes."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from likeness import storage
from likeness.core.errors import UsageError

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
REQUIRED = ("product_id", "image", "category")
_TRUTH = {"true": True, "1": True, "yes": True, "": True, "false": False, "0": False, "no": False}


@dataclass
class CatalogueRow:
    """One row, or `error` saying why it cannot be used; `number` counts from 1 without the header."""

    number: int
    product_id: str = ""
    image: str = ""
    category: str = ""
    active: bool = True
    attributes: dict[str, str] = field(default_factory=dict)
    error: str = ""


def read(uri: str) -> Iterator[CatalogueRow]:
    """Yields the rows in file order.

    Raises:
        UsageError: unknown suffix, unreadable file or a missing column.
    """
    readers = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    suffix = f".{uri.rpartition('.')[2].lower()}"
    if suffix not in readers:
        raise UsageError(f"catalogue {uri}: unknown kind {suffix}; known: {', '.join(SUFFIXES)}")
    try:
        for number, values in enumerate(readers[suffix](uri), 1):
            yield values if isinstance(values, CatalogueRow) else row_of(number, values, REQUIRED)
    except (OSError, csv.Error, ValueError, pa.ArrowException) as error:
        raise UsageError(f"catalogue {uri} cannot be read: {error}; it must be UTF-8 {suffix[1:]}") from None


def row_of(number: int, values: Mapping[str, Any], required: Sequence[str]) -> CatalogueRow:
    """One row from its values by column name; what is neither required nor `active` is an attribute."""
    text = {key: _text(value) for key, value in values.items() if key and value is not None}
    missing = [name for name in required if not text.get(name, "").strip()]
    if missing:
        return CatalogueRow(number, error=f"no {' and no '.join(missing)}")
    active = text.pop("active", "").strip().lower()
    if active not in _TRUTH:
        return CatalogueRow(number, error=f"active is {active!r}, not true or false")
    if not encodable("".join([*text, *text.values()])):
        return CatalogueRow(number, error="half a surrogate pair, which is no text")
    named = {name: text.pop(name).strip() for name in required}
    return CatalogueRow(number, **named, active=_TRUTH[active], attributes=text)


def encodable(text: str) -> bool:
    """Whether text is text: a file name's undecodable bytes and half a surrogate pair are not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str:
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False, default=_text)
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _csv(uri: str) -> Iterator[dict[str, Any] | CatalogueRow]:
    with io.TextIOWrapper(storage.files(uri).open(uri), encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        _require(uri, reader.fieldnames or ())
        for number, values in enumerate(reader, 1):
            extra = values.pop(None, None)
            if extra:
                yield CatalogueRow(number, error=f"{len(extra)} more fields than the header")
            else:
                yield values


def _json_lines(uri: str) -> Iterator[dict[str, Any] | CatalogueRow]:
    with io.TextIOWrapper(storage.files(uri).open(uri), encoding="utf-8-sig") as file:
        for number, line in enumerate((line for line in file if line.strip()), 1):
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield CatalogueRow(number, error=f"not JSON: {error}")
                continue
            yield values if isinstance(values, dict) else CatalogueRow(number, error="not a JSON object")


def _parquet(uri: str) -> Iterator[dict[str, Any] | CatalogueRow]:
    with storage.files(uri).open(uri) as file:
        table = pq.ParquetFile(file)
        _require(uri, table.schema_arrow.names)
        for batch in table.iter_batches():
            yield from batch.to_pylist()


def _require(uri: str, names: Any) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise UsageError(
            f"catalogue {uri} has no column {', '.join(missing)}; it has {', '.join(names)}; "
            f"needed are {', '.join(REQUIRED)}"
        )
