"""Command lines of the jobs: flags in, one call of the job, an exit code out.   [typer]"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from likeness.core.errors import LikenessError, UsageError
from likeness.core.settings import Settings, load_settings
from likeness.models.backbones import registry
from likeness.models.model_registry import override_reason
from likeness.ops.backfill_coverage import Scope
from likeness.training.request import TrainingRequest

Root = Annotated[str | None, typer.Option(help="folder of all tables, builds and models (default: var)")]
Space = Annotated[str | None, typer.Option(help="feature space, as alexnet.fc6")]
Config = Annotated[str | None, typer.Option(help="TOML file of settings")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="key=value of any setting")]
Mode = Annotated[str | None, typer.Option(help="delta: unlisted photos stay; full: unlisted photos are withdrawn")]
Model = Annotated[str, typer.Option(help="as `likeness models list` names it")]
Day = datetime | None
Flags = Callable[..., tuple[Any, ...]]
"""Turns the flags of a job, its parameters, into the arguments of the job."""
_DAY = ["%Y-%m-%d"]


def job_command(job: Callable[..., object], sample: Path | None = None) -> None:
    """Runs a job from the command line and exits with its code. A `LikenessError` is printed as one message.

    Args:
        job: a function of the settings, and of what else its flags give.
        sample: the source if the settings name none; None for a job that needs no source.
    """

    def call(settings: Settings, *others: Any) -> None:
        if sample and not settings.source.uri:
            settings = settings.model_copy(update={"source": settings.source.model_copy(update={"uri": str(sample)})})
        job(settings, *others)

    try:
        _app(job.__name__.removesuffix("_job"), call, job.__doc__)()
    except LikenessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def read_flags(job: str, flags: Sequence[str]) -> Settings:
    """The settings of a job's flags. An unknown flag ends the program with exit code 2.

    Raises:
        UsageError: as `load_settings`.
    """
    parsed: list[Settings] = []
    try:
        _app(job, lambda settings, *_: parsed.append(settings))(list(flags))
    except SystemExit as ended:
        if ended.code:
            raise
    return parsed[0]


def _app(job: str, call: Callable[..., None], help_text: str | None = None) -> typer.Typer:
    """The command line of a job, which calls a function with what its flags give."""
    flags = _FLAGS.get(job, _common)

    @functools.wraps(flags)
    def main(**values: Any) -> None:
        call(*flags(**values))

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=help_text)(main)
    return app


def _common(
    source: Annotated[str | None, typer.Option(help="folder, .tar or .parquet of photos")] = None,
    root: Root = None,
    catalogue: Annotated[str | None, typer.Option(help="CSV, JSON lines or Parquet of products")] = None,
    source_mode: Mode = None,
    date: Annotated[Day, typer.Option(help="ingest date of new photos", formats=_DAY)] = None,
    space: Space = None,
    config: Config = None,
    assignments: Assignments = None,
) -> tuple[Settings]:
    """The flags that every job has."""
    flags = {
        "source.uri": source,
        "root": root,
        "source.catalogue": catalogue,
        "source.mode": source_mode,
        "date": date.date() if date else None,
        "extract.space": space,
    }
    return (load_settings(config, flags, assignments or ()),)


def _backfill(
    space: Space = None,
    first: Annotated[Day, typer.Option("--from", help="first ingest date (default: all)", formats=_DAY)] = None,
    last: Annotated[Day, typer.Option("--to", help="last ingest date (default: all)", formats=_DAY)] = None,
    category: Annotated[str | None, typer.Option(help="only photos of active listings of this category")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what is missing, and extract nothing")] = False,
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> tuple[Settings, Scope, bool]:
    """The flags of the backfill."""
    settings = load_settings(config, {"root": root, "extract.space": space}, assignments or ())
    return settings, Scope(first.date() if first else None, last.date() if last else None, category), dry_run


def _train(
    task: Annotated[str, typer.Option(help="category, attributes, metric, boxes or distil")] = "category",
    space: Annotated[str | None, typer.Option(help="feature space to learn from")] = None,
    name: Annotated[str | None, typer.Option(help="name of the model (default: the task)")] = None,
    teacher: Annotated[str, typer.Option(help="distil: the space whose vectors are the targets")] = "",
    student: Annotated[str | None, typer.Option(help="distil: the backbone, or its layer, to train")] = None,
    scratch: Annotated[bool, typer.Option("--scratch", help="start from random weights")] = False,
    processes: Annotated[int | None, typer.Option(help="number of training processes")] = None,
    learning_curve: Annotated[str, typer.Option(help="also train on fewer photos, as 50,100,300,all")] = "",
    compare: Annotated[str, typer.Option(help="scratch: also the learning curve from random weights")] = "",
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> tuple[Settings, TrainingRequest]:
    """The flags of the training."""
    if student and "." not in student and student in registry():
        student = f"{student}.{registry()[student].default_layer}"
    flags = {"root": root, "extract.space": student or space, "train.name": name, "train.processes": processes}
    if compare not in ("", "scratch"):
        raise UsageError(f"--compare {compare!r}: only scratch can be compared with")
    request = TrainingRequest(task, teacher, scratch, _counts(learning_curve), bool(compare))
    return load_settings(config, flags, assignments or ()), request


def _evaluate(
    model: Model,
    version: Annotated[str, typer.Option(help="default: the one in service, else the newest")] = "",
    on: Annotated[str, typer.Option(help="evaluation set, as NAME or NAME@VERSION (default: the newest)")] = "",
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> tuple[Settings, str, str, str]:
    """The flags of the evaluation of a model."""
    return load_settings(config, {"root": root}, assignments or ()), model, version, on


def _promote(
    model: Model,
    version: Annotated[str, typer.Option(help="default: the newest")] = "",
    force: Annotated[bool, typer.Option("--force", help="ignore a gate that refuses")] = False,
    reason: Annotated[str, typer.Option(help="why, with --force; saved with the promotion")] = "",
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> tuple[Settings, str, str, str]:
    """The flags of the promotion of a model."""
    return load_settings(config, {"root": root}, assignments or ()), model, version, override_reason(force, reason)


def _counts(text: str) -> tuple[int, ...]:
    """Parses `50,100,all`; 0 means all.

    Raises:
        UsageError: the text is not such a list.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if any(word != "all" and (not word.isdecimal() or int(word) < 2) for word in words):
        raise UsageError(f"--learning-curve {text!r}: write numbers of at least 2, as 50,100,300,all")
    return tuple(0 if word == "all" else int(word) for word in words)


_FLAGS: Mapping[str, Flags] = {"backfill": _backfill, "train": _train, "evaluate": _evaluate, "promote": _promote}
"""The jobs that have other flags than the common ones."""
