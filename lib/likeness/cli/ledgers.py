"""`likeness runs`, `failures`, `config`, `retry-failed`: what happened, and what it was told."""

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from likeness.cli.common import AsJson, Assignments, Config, Root, load, show_json, show_table
from likeness.core.errors import UsageError
from likeness.core.settings import Settings, Source, known_keys
from likeness.storage.run_facts import RunFacts
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, RUNS

runs = typer.Typer(help="Runs of this root.", no_args_is_help=True)
failures = typer.Typer(help="The failure ledger.", no_args_is_help=True)
config = typer.Typer(help="Settings: file < environment < flag.", no_args_is_help=True)


@runs.command("list")
def list_runs(
    root: Root = None, as_json: AsJson = False, config: Config = None, assignments: Assignments = None
) -> None:
    """Every run, the latest last."""
    rows = _runs(load(root, config, assignments))
    columns = ("run_id", "job", "status", "started", "ended", "space", "build", "error")
    if as_json:
        show_json([{name: row[name] for name in columns} for row in rows])
    else:
        short = [[_brief(row[name]) for name in ("run_id", "status", "started", "build", "error")] for row in rows]
        show_table(("run", "status", "started", "build", "error"), short)


@runs.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(help="a run, or `last`")],
    root: Root = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """One run: settings, counts, seconds and snapshots."""
    rows = _runs(load(root, config, assignments))
    found = rows[-1:] if run_id == "last" else [row for row in rows if row["run_id"] == run_id]
    if not found:
        raise UsageError(f"run {run_id!r} is not in this root; `likeness runs list` names them")
    row = found[0] | {
        "settings": json.loads(found[0]["settings"]),
        "facts": RunFacts.from_json(found[0]["facts"]).dump(),
    }
    if as_json:
        show_json(row)
        return
    for name, value in row.items():
        print(f"{name}: {json.dumps(value, ensure_ascii=False, indent=2) if isinstance(value, dict) else value}")


@failures.command("list")
def list_failures(
    root: Root = None,
    stage: Annotated[str, typer.Option(help="list, ingest or extract (default: all)")] = "",
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """What was rejected or failed, and why."""
    rows = _failures(load(root, config, assignments), stage)
    if as_json:
        show_json(rows)
    elif not rows:
        print("no failures")
    else:
        columns = ("what", "stage", "reason", "detail", "attempts")
        show_table(columns, [[row[name] for name in columns] for row in rows])


@failures.command("export")
def export_failures(
    out: Annotated[Path, typer.Argument(help="a CSV file to write; - for standard output")],
    root: Root = None,
    stage: Annotated[str, typer.Option(help="list, ingest or extract (default: all)")] = "",
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """The ledger as CSV."""
    rows = _failures(load(root, config, assignments), stage)
    columns = [column.name for column in FAILURES.columns]
    if str(out) == "-":
        _write_csv(sys.stdout, columns, rows)
        return
    try:
        with out.open("w", newline="", encoding="utf-8") as file:
            _write_csv(file, columns, rows)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror}; name a file that can be written") from None
    print(f"{len(rows)} failures in {out}")


@config.command("show")
def show_config(
    root: Root = None, as_json: AsJson = False, config: Config = None, assignments: Assignments = None
) -> None:
    """Every setting: its value here, its default and what it does."""
    settings = load(root, config, assignments).model_dump(mode="json")
    rows = []
    for key, field in known_keys().items():
        value: Any = settings
        for part in key.split("."):
            value = value[part]
        default = field.get_default(call_default_factory=True)
        rows.append({"key": key, "value": value, "default": default, "meaning": field.description})
    if as_json:
        show_json(rows)
    else:
        show_table(("key", "value", "default", "meaning"), [list(row.values()) for row in rows])


@config.command("validate")
def validate_config(config: Config = None, assignments: Assignments = None) -> None:
    """Check a configuration; every error at once, exit code 2."""
    load(None, config, assignments)
    print("the configuration is valid")


def retry_failed(root: Root = None, config: Config = None, assignments: Assignments = None) -> None:
    """Read and extract again what stands in the failure ledger, with the source of the last run."""
    settings = load(root, config, assignments)
    if not settings.source.uri:
        settings = settings.model_copy(update={"source": _last_source(settings)})
    from likeness.spark.jobs import retry_failed as job

    job(settings)


def _last_source(settings: Settings) -> Source:
    for row in reversed(_runs(settings)):
        source = json.loads(row["settings"]).get("source") or {}
        if source.get("uri"):
            return Source(**source)
    raise UsageError(f"root {settings.root} has no run with a source; name one with --set source.uri=URI")


def _runs(settings: Settings) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = TableReader(settings).read(RUNS).sort_by("started").to_pylist()
    return rows


def _failures(settings: Settings, stage: str) -> list[dict[str, Any]]:
    if stage not in ("", "list", "ingest", "extract"):
        raise UsageError(f"--stage {stage!r}: not one of list, ingest, extract")
    where = f"stage = '{stage}'" if stage else ""
    rows: list[dict[str, Any]] = (
        TableReader(settings)
        .read(FAILURES, where=where)
        .sort_by([("stage", "ascending"), ("what", "ascending")])
        .to_pylist()
    )
    return rows


def _brief(value: Any) -> str:
    return "" if value is None else str(value).splitlines()[0][:80]


def _write_csv(file: Any, columns: list[str], rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(rows)
