"""Run history: the rows of the `runs` table in, how fast each stage was out."""

import json

import pyarrow as pa

from likeness.storage.table_reader import TableReader
from likeness.storage.tables import RUNS

_MEASURED = {"ingest": "read", "extract": "wanted", "load": "vectors", "index": "indexed"}
"""What a stage counts that its time depends on."""
_ENOUGH = 1000
"""A stage that had less to do tells its start, not its rate."""


def rates(warehouse: TableReader, space: str) -> dict[str, tuple[float, str]]:
    """(a second, run) by stage, from the latest run of the space that had enough to do, else the one that had most."""
    rows = warehouse.read(RUNS, ("run_id", "started", "space", "facts")).sort_by("started")
    return {stage: found for stage in _MEASURED if (found := _rate(stage, rows, space))}


def _rate(stage: str, rows: pa.Table, space: str) -> tuple[float, str] | None:
    best: tuple[int, float, str] | None = None
    for row in rows.to_pylist():
        told = json.loads(row["facts"]).get(stage, {})
        done, seconds = told.get(_MEASURED[stage], 0), told.get("seconds", 0)
        if not done or not seconds or (row["space"] != space and stage != "ingest"):
            continue
        if best is None or done >= min(_ENOUGH, best[0]):
            best = done, done / seconds, row["run_id"]
    return best[1:] if best else None
