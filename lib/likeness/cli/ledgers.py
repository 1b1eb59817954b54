"""`likeness runs`, `failures`, `config`, `retry-failed`: run history, failure ledger and settings."""

import csv
import functools
import json
import operator
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from likeness.cli.common import AsJson, Assignments, Config, load, show_result, show_table, with_root, with_settings
from likeness.core.errors import UsageError
from likeness.core.settings import Settings, Source, setting_fields
from likeness.storage.run_history import FailureRow, read_failures, read_runs
from likeness.storage.table_reader import TableReader

runs = typer.Typer(help="List runs, or show one.", no_args_is_help=True)
failures = typer.Typer(help="List or export the failure ledger.", no_args_is_help=True)
config = typer.Typer(
    help="Show or check the settings. Flags override environment variables, these the file.", no_args_is_help=True
)

Stage = Annotated[str, typer.Option(help="list, ingest or extract (default: all)")]


@runs.command("list")
@with_root
def list_runs(settings: Settings, as_json: AsJson = False) -> None:
    """List all runs, the latest last."""
    rows = read_runs(TableReader(settings))
    titles = ("run", "status", "started", "build", "error")
    cells = [[_brief(cell) for cell in (row.run_id, row.status, row.started, row.build, row.error)] for row in rows]
    values = [row.model_dump(exclude={"settings", "facts"}) for row in rows]
    none = f"root {settings.root} has no runs yet; ./spark-submit.sh nightly makes the first"
    show_result(values, as_json, lambda: show_table(titles, cells, none))


@runs.command("show")
@with_root
def show_run(
    settings: Settings,
    run_id: Annotated[str, typer.Argument(help="a run, or `last`")],
    as_json: AsJson = False,
) -> None:
    """Show one run: settings, counts, seconds and snapshots."""
    rows = read_runs(TableReader(settings))
    matches = rows[-1:] if run_id == "last" else [row for row in rows if row.run_id == run_id]
    if not matches:
        raise UsageError(f"run {run_id!r} is not in this root; `likeness runs list` lists its runs")
    row = matches[0]
    fields = dict(row) | {"settings": json.loads(row.settings), "facts": row.facts.dump()}
    texts = (json.dumps(one, ensure_ascii=False, indent=2) if isinstance(one, dict) else one for one in fields.values())
    lines = [f"{name}: {text}" for name, text in zip(fields, texts, strict=True)]
    show_result(fields, as_json, lambda: print(*lines, sep="\n"))


@failures.command("list")
@with_root
def list_failures(settings: Settings, stage: Stage = "", as_json: AsJson = False) -> None:
    """List what was rejected or failed, with the reasons."""
    rows, columns = _failures(settings, stage), ("what", "stage", "reason", "detail", "attempts")
    tables, of_stage = TableReader(settings), f" of stage {stage}" if stage else ""
    none = f"no failures{of_stage}" if read_runs(tables) else f"root {settings.root} has no runs yet, and no failures"
    show_result(rows, as_json, lambda: show_table(columns, map(operator.attrgetter(*columns), rows), none))


@failures.command("export")
@with_root
def export_failures(
    settings: Settings,
    out: Annotated[Path, typer.Argument(help="CSV file to write; - for standard output")],
    stage: Stage = "",
) -> None:
    """Write the failure ledger as CSV."""
    rows = _failures(settings, stage)
    to_file = str(out) != "-"
    try:
        with out.open("w", newline="", encoding="utf-8") if to_file else nullcontext(sys.stdout) as file:
            writer = csv.DictWriter(file, list(FailureRow.model_fields))
            writer.writeheader()
            writer.writerows(map(dict, rows))
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror}; name a file that can be written") from None
    if to_file:
        print(f"{len(rows)} failures in {out}")


@config.command("show")
@with_settings
def show_config(settings: Settings, as_json: AsJson = False) -> None:
    """Show every setting: its value, its default and its meaning."""
    values = settings.model_dump(mode="json")
    rows = []
    for key, field in setting_fields().items():
        value = functools.reduce(operator.getitem, key.split("."), values)
        default = field.get_default(call_default_factory=True)
        rows.append({"key": key, "value": value, "default": default, "meaning": field.description})
    show_result(
        rows, as_json, lambda: show_table(("key", "value", "default", "meaning"), [tuple(row.values()) for row in rows])
    )


@config.command("validate")
def validate_config(config: Config = None, assignments: Assignments = None) -> None:
    """Check the settings.

    Prints every error, and exits with code 2 if there is one.
    """
    load(None, config, assignments)
    print("the configuration is valid")


@with_root
def retry_failed(settings: Settings) -> None:
    """Process failed photos again.

    Reads and extracts the photos of the failure ledger; the default source is that of the last run.
    """
    if not settings.source.uri:
        settings = settings.model_copy(update={"source": _last_source(settings)})
    from likeness.spark.jobs import retry_failed as job

    job(settings)


def _last_source(settings: Settings) -> Source:
    for row in reversed(read_runs(TableReader(settings))):
        source = json.loads(row.settings).get("source") or {}
        if source.get("uri"):
            return Source(**source)
    raise UsageError(f"root {settings.root} has no run with a source; name one with --set source.uri=URI")


def _failures(settings: Settings, stage: str) -> list[FailureRow]:
    if stage not in ("", "list", "ingest", "extract"):
        raise UsageError(f"--stage {stage!r} is not one of list, ingest, extract")
    return read_failures(TableReader(settings), f"stage = '{stage}'" if stage else "")


def _brief(value: object) -> str:
    """The first 80 characters of the first line."""
    return "" if value is None else str(value).splitlines()[0][:80]
