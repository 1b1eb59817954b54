"""`likeness plan`: what a run would cost, before it starts.   [typer]"""

import dataclasses
from typing import Annotated

import typer

from likeness import settings as settings_module
from likeness.cli.common import AsJson, Assignments, Config, Root, show_json, show_table


def plan(
    root: Root = None,
    source: Annotated[
        str | None, typer.Option(help="folder, .tar or .parquet of photos; none: the tables alone")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="feature space, as alexnet.fc6 (default: the settings' own)")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Photos, time, bytes and memory of a nightly run or of a new space, by what earlier runs here took."""
    from likeness.backbones import resolve
    from likeness.forecast import forecast

    flags = {"root": root, "source.uri": source, "extract.space": space}
    given = settings_module.load(config, flags, assignments or ())
    chosen = resolve(given.extract.space, given.extract.weights, given.extract.cache)
    steps = forecast(given, chosen)
    if as_json:
        show_json({"space": chosen.id, "steps": [dataclasses.asdict(step) for step in steps]})
        return
    columns = ("stage", "count", "", "time", "written, at most", "memory at search", "rate of run")
    rows = [
        (
            step.stage,
            f"{step.count:,}",
            step.unit,
            _time(step.seconds),
            _size(step.stored),
            _size(step.memory),
            step.basis,
        )
        for step in steps
    ]
    show_table(columns, rows)
    unknown = [step.stage for step in steps if step.seconds is None]
    total = sum(step.seconds or 0 for step in steps)
    print(f"{chosen.id}: {_time(total)} and Spark's start" + (f", without {', '.join(unknown)}" if unknown else ""))
    if unknown:
        print("a stage that never ran on this root has no rate; run it on a part of the source first")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "never measured here"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    if not count:
        return ""
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"
