"""The jobs, and the door they share: flags in, one call, an exit code out.   [pyspark, typer]"""

import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from likeness import reports, settings
from likeness.builds import Builds
from likeness.errors import GateError, LikenessError, ServiceError, UsageError
from likeness.manifest import Manifest
from likeness.progress import Reporter
from likeness.settings import Settings
from likeness.sources import check_source
from likeness.spark.compact import compact, gc
from likeness.spark.copy import copy
from likeness.spark.extract import extract
from likeness.spark.forget import forget
from likeness.spark.index import index, publish
from likeness.spark.ingest import ingest
from likeness.spark.load import expect_store, load
from likeness.spark.run import Run

_ALL = ("ingest", "extract", "load", "index")


def nightly(given: Settings, retry: bool = False) -> None:
    """Ingest, extract, load, index, audit, publish, report."""
    check_source(given.source)
    built: Manifest | None = None
    unloaded: ServiceError | None = None
    reporter = Reporter()
    expect_store(given, reporter)
    with Run("retry-failed" if retry else "nightly", given, _ALL, reporter) as run:
        try:
            ingest(run, retry)
            extract(run, retry)
            unloaded = _load_or_later(run)
            built = index(run)
            if built:
                publish(run, built)
        except GateError as refused:
            _report(run, built, "refused", str(refused))
            raise
        current = Builds(given.root).find()
        run.build = current.path
        _report(run, current, "failed" if unloaded else "done", str(unloaded) if unloaded else None)
        if unloaded:
            raise unloaded
    print(reports.summary(run.facts, given, current))


def _load_or_later(run: Run) -> ServiceError | None:
    """Loads; a store that is down keeps no photo from the index, and is returned as the error to end with."""
    try:
        load(run)
    except ServiceError as error:
        run.say(f"load: {error}")
        return ServiceError(f"{error} – the index is in service all the same; once the store is back, run `load` alone")
    return None


def retry_failed(given: Settings) -> None:
    """Nightly, reading and extracting again what stands in the failure ledger."""
    nightly(given, retry=True)


def ingest_job(given: Settings) -> None:
    """Bring the tables up to date with a source."""
    check_source(given.source)
    with Run("ingest", given, ("ingest",)) as run:
        ingest(run)


def extract_job(given: Settings) -> None:
    """Extract every photo that the space lacks."""
    with Run("extract", given, ("extract",)) as run:
        extract(run)


def load_job(given: Settings) -> None:
    """Bring the keyed store up to date with the tables."""
    with Run("load", given, ("load",)) as run:
        load(run)


def index_job(given: Settings) -> None:
    """Build and audit shards, without publishing them."""
    with Run("index", given, ("index",)) as run:
        built = index(run)
        run.build = built.path if built else None
    if built:
        print(f"try it: likeness search PHOTO --root {given.root} --build {built.build}")


def publish_job(given: Settings) -> None:
    """Put the newest build of the space in service, if it passes its gates."""
    with Run("publish", given, ("index",)) as run:
        builds = Builds(given.root)
        mine = [path for path in builds.all() if path.startswith(f"{run.space.id}/")]
        if not mine:
            raise UsageError(f"root {given.root} has no build of {run.space.id}; run ./spark-submit.sh index first")
        publish(run, builds.read(mine[-1]))


def compact_job(given: Settings) -> None:
    """Put the tables' small files together, and let go of snapshots that nothing needs."""
    with Run("compact", given, _ALL) as run:
        compact(run)


def gc_job(given: Settings) -> None:
    """Delete builds, files and snapshots that nothing refers to."""
    with Run("gc", given, _ALL) as run:
        gc(run)


def copy_root(given: Settings, to: str) -> None:
    """Copy a root to another place."""
    with Run("copy", given, _ALL) as run:
        copy(run, to)


def forget_products(given: Settings, product_ids: Sequence[str]) -> None:
    """Erase products from tables, keyed store, builds and reports."""
    with Run("forget", given, _ALL) as run:
        forget(run, product_ids)


def _report(run: Run, manifest: Manifest | None, status: str, error: str | None = None) -> None:
    with run.stage("report"):
        try:
            run.say(f"report: {reports.write(run.row(status=status, error=error), run.settings, manifest)}")
        except OSError as failed:  # the work is done and published; its report is not worth a failed run
            run.say(f"report: cannot be written: {failed}; `likeness runs show {run.run_id}` says the same")


def door(job: Callable[[Settings], None], sample: Path | None = None) -> None:
    """Runs a job from the command line and exits with its code.

    Args:
        job: one of this module's.
        sample: the source that is indexed when none is named; None where a source is not needed.
    """

    def use(given: Settings) -> None:
        if sample and not given.source.uri:
            given = given.model_copy(update={"source": given.source.model_copy(update={"uri": str(sample)})})
        job(given)

    main = _command(use)
    main.__doc__ = job.__doc__
    run_door(main)


def read_flags(flags: Sequence[str]) -> Settings:
    """The settings that a job's flags give it; a flag that no job knows ends the program with exit code 2.

    Raises:
        UsageError: as `settings.load`.
    """
    found: list[Settings] = []
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_command(found.append))
    try:
        app(list(flags))
    except SystemExit as ended:
        if ended.code:
            raise
    return found[0]


def _command(use: Callable[[Settings], None]) -> Callable[..., None]:
    """The flags that every job has, as a Typer command."""

    def main(
        source: Annotated[str | None, typer.Option(help="folder, .tar or .parquet of photos")] = None,
        root: Annotated[str | None, typer.Option(help="folder that holds everything written (default: var)")] = None,
        catalogue: Annotated[str | None, typer.Option(help="CSV, JSON lines or Parquet of products")] = None,
        source_mode: Annotated[
            str | None, typer.Option(help="delta: absent says nothing; full: absent is withdrawn")
        ] = None,
        date: Annotated[
            datetime.datetime | None, typer.Option(help="epoch of new photos", formats=["%Y-%m-%d"])
        ] = None,
        space: Annotated[str | None, typer.Option(help="feature space, as alexnet.fc6")] = None,
        config: Annotated[str | None, typer.Option(help="TOML file of settings")] = None,
        assignments: Annotated[list[str] | None, typer.Option("--set", help="key=value of any setting")] = None,
    ) -> None:
        flags = {
            "source.uri": source,
            "root": root,
            "source.catalogue": catalogue,
            "source.mode": source_mode,
            "date": date.date() if date else None,
            "extract.space": space,
        }
        use(settings.load(config, flags, assignments or ()))

    return main


def run_door(main: Callable[..., None]) -> None:
    """Runs a Typer command; a LikenessError becomes one message and its exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except LikenessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
