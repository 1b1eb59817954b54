"""`likeness plan`: an estimate of a run before it starts.   [typer]"""

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from likeness import storage
from likeness.cli.common import AsJson, Assignments, Config, Root, show_result, show_table
from likeness.core.errors import UsageError
from likeness.core.settings import load_settings

if TYPE_CHECKING:
    from likeness.ops.estimate import StageEstimate


def plan(
    root: Root = None,
    source: Annotated[
        str | None, typer.Option(help="folder, .tar or .parquet of photos (default: only photos in the tables)")
    ] = None,
    space: Annotated[
        str | None, typer.Option(help="feature space, as alexnet.fc6 (default: the space of the settings)")
    ] = None,
    first: Annotated[
        datetime.datetime | None,
        typer.Option("--from", help="first ingest date of a backfill", formats=["%Y-%m-%d"]),
    ] = None,
    last: Annotated[
        datetime.datetime | None, typer.Option("--to", help="last ingest date of a backfill", formats=["%Y-%m-%d"])
    ] = None,
    category: Annotated[str | None, typer.Option(help="category of a backfill (default: all)")] = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Estimate a run before it starts.

    Photos, time, bytes and memory of a nightly run, a new space or a backfill, from earlier runs on this root.
    """
    from likeness.models.spaces import space_of
    from likeness.ops.backfill_coverage import Scope
    from likeness.ops.estimate import backfill, estimate

    scope = Scope(first and first.date(), last and last.date(), category)
    if scope and source:
        raise UsageError(
            f"--source {source}: a backfill reads the tables alone; remove --source, or --from, --to and --category"
        )
    flags = {"root": root, "source.uri": source, "extract.space": space}
    settings = load_settings(config, flags, assignments or ())
    if not settings.source.uri:  # else the root may be one that the first run is to fill
        storage.check_root(settings.root)
    feature_space = space_of(settings)
    steps = [backfill(settings, feature_space, scope)[0]] if scope else estimate(settings, feature_space)
    title = f"{feature_space.id}, {scope}" if scope else feature_space.id
    value = {"space": feature_space.id, "scope": str(scope), "steps": steps}
    show_result(value, as_json, lambda: _show(steps, title))


def _show(steps: "Sequence[StageEstimate]", title: str) -> None:
    from likeness.core.formatting import size
    from likeness.ops.estimate import duration

    columns = ("stage", "count", "", "time", "bytes written, at most", "memory at search", "rate from run")
    rows = []
    for step in steps:
        stored, memory = (size(count) if count else "" for count in (step.stored, step.memory))
        rows.append((step.stage, f"{step.count:,}", step.unit, duration(step.seconds), stored, memory, step.basis))
    show_table(columns, rows)
    unknown = [step.stage for step in steps if step.seconds is None]
    total = sum(step.seconds or 0 for step in steps)
    without = f", without {', '.join(unknown)}" if unknown else ""
    print(f"{title}: {duration(total)}, plus the start of Spark{without}")
    if unknown:
        print("a stage that never ran on this root has no estimate; run it on a part of the source first")
