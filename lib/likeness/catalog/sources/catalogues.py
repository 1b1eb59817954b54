"""Reads a catalogue file (CSV, JSON lines, Parquet): product_id, image, category, active and attributes of each row."""

import csv
import io
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from likeness import storage
from likeness.core.errors import UsageError

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")
REQUIRED = ("product_id", "image", "category")
_BOOLEANS = {"true": True, "1": True, "yes": True, "": True, "false": False, "0": False, "no": False}


@dataclass
class CatalogueRow:
    """A row of a catalogue, or the `error` for which it is rejected. `number` counts from 1, without the header."""

    number: int
    product_id: str = ""
    image: str = ""
    category: str = ""
    active: bool = True
    attributes: dict[str, str] = field(default_factory=dict)
    error: str = ""


def read(uri: str) -> Iterator[CatalogueRow]:
    """Yields the rows of a catalogue file, in its order.

    Raises:
        UsageError: the suffix is unknown, the file cannot be read, or a column is missing.
    """
    readers = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
    suffix = f".{uri.rpartition('.')[2].lower()}"
    if suffix not in readers:
        raise UsageError(f"catalogue {uri}: unknown suffix {suffix}; known: {', '.join(SUFFIXES)}")
    try:
        yield from readers[suffix](uri)
    except (OSError, csv.Error, ValueError, pa.ArrowException) as error:
        raise UsageError(f"catalogue {uri} cannot be read: {error}; it must be UTF-8 {suffix[1:]}") from None


def parse_row(number: int, values: Mapping[str, Any], required: Sequence[str] = REQUIRED) -> CatalogueRow:
    """Parses the values of a row by column name; columns other than the required ones and `active` are attributes."""
    text = {key: _text(value) for key, value in values.items() if key and value is not None}
    missing = [name for name in required if not text.get(name, "").strip()]
    if missing:
        return CatalogueRow(number, error=f"no {' and no '.join(missing)}")
    active = text.pop("active", "").strip().lower()
    if active not in _BOOLEANS:
        return CatalogueRow(number, error=f"active is {active!r}, not true or false")
    if not encodable("".join([*text, *text.values()])):
        return CatalogueRow(number, error="half a surrogate pair, which is not text")
    fields = {name: text.pop(name).strip() for name in required}
    return CatalogueRow(number, **fields, active=_BOOLEANS[active], attributes=text)


def encodable(text: str) -> bool:
    """Whether text can be encoded in UTF-8: undecodable bytes of a file name and half a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: Any) -> str:
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False, default=_text)
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _csv(uri: str) -> Iterator[CatalogueRow]:
    with io.TextIOWrapper(storage.files(uri).open(uri), encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        _require(uri, reader.fieldnames or ())
        for number, values in enumerate(reader, 1):
            extra = values.pop(None, None)
            if extra:
                yield CatalogueRow(number, error=f"{len(extra)} more fields than the header")
            else:
                yield parse_row(number, values)


def _json_lines(uri: str) -> Iterator[CatalogueRow]:
    with io.TextIOWrapper(storage.files(uri).open(uri), encoding="utf-8-sig") as file:
        for number, line in enumerate((line for line in file if line.strip()), 1):
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield CatalogueRow(number, error=f"not JSON: {error}")
                continue
            if isinstance(values, dict):
                yield parse_row(number, values)
            else:
                yield CatalogueRow(number, error="not a JSON object")


def _parquet(uri: str) -> Iterator[CatalogueRow]:
    with storage.files(uri).open(uri) as file:
        table = pq.ParquetFile(file)
        _require(uri, table.schema_arrow.names)
        rows = (row for batch in table.iter_batches() for row in batch.to_pylist())
        yield from itertools.starmap(parse_row, enumerate(rows, 1))


def _require(uri: str, names: Collection[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise UsageError(
            f"catalogue {uri} has no column {', '.join(missing)}; it has {', '.join(names)}; "
            f"required are {', '.join(REQUIRED)}"
        )
