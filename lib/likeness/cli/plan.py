"""`likeness plan`: what a run would cost, before it starts.   [typer]"""

import dataclasses
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.cli.common import AsJson, Assignments, Config, Root, show_json, show_table
from likeness.core.errors import UsageError
from likeness.core.settings import load_settings

if TYPE_CHECKING:
    from likeness.ops.estimate import StageEstimate


def plan(
    root: Root = None,
    source: Annotated[
        str | None, typer.Option(help="folder, .tar or .parquet of photos; none: the tables alone")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="feature space, as alexnet.fc6 (default: the settings' own)")
    ] = None,
    first: Annotated[
        datetime.datetime | None,
        typer.Option("--from", help="of a backfill: its first ingest date", formats=["%Y-%m-%d"]),
    ] = None,
    last: Annotated[
        datetime.datetime | None, typer.Option("--to", help="of a backfill: its last ingest date", formats=["%Y-%m-%d"])
    ] = None,
    category: Annotated[str | None, typer.Option(help="of a backfill: only photos of this category")] = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Photos, time, bytes and memory of a nightly run, a new space or a backfill, by what earlier runs here took."""
    from likeness.models.model_registry import space_of
    from likeness.ops.backfill_coverage import Scope
    from likeness.ops.estimate import backfill, estimate

    scope = Scope(first and first.date(), last and last.date(), category)
    if scope and source:
        raise UsageError(f"--source {source}: a backfill reads the tables alone; leave --source away, or the range")
    flags = {"root": root, "source.uri": source, "extract.space": space}
    settings = load_settings(config, flags, assignments or ())
    chosen = space_of(settings)
    steps = [backfill(settings, chosen, scope)[0]] if scope else estimate(settings, chosen)
    if as_json:
        show_json({"space": chosen.id, "scope": str(scope), "steps": [dataclasses.asdict(step) for step in steps]})
        return
    _show(steps, f"{chosen.id}, {scope}" if scope else chosen.id)


def _show(steps: "Sequence[StageEstimate]", what: str) -> None:
    from likeness.core.formatting import size
    from likeness.ops.estimate import duration

    columns = ("stage", "count", "", "time", "written, at most", "memory at search", "rate of run")
    rows = [
        (
            step.stage,
            f"{step.count:,}",
            step.unit,
            duration(step.seconds),
            size(step.stored) if step.stored else "",
            size(step.memory) if step.memory else "",
            step.basis,
        )
        for step in steps
    ]
    show_table(columns, rows)
    unknown = [step.stage for step in steps if step.seconds is None]
    total = sum(step.seconds or 0 for step in steps)
    print(f"{what}: {duration(total)} and Spark's start" + (f", without {', '.join(unknown)}" if unknown else ""))
    if unknown:
        print("a stage that never ran on this root has no rate; run it on a part of the source first")
