"""Run reports: a run's row and its build in, an HTML file and a summary for the terminal out.   [jinja2]

The page needs no other file: style and photos are inline, and there is no script.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from likeness import storage
from likeness.core import uris
from likeness.core.errors import LikenessError
from likeness.core.settings import Settings
from likeness.evaluation import compare_spaces
from likeness.evaluation.compare_spaces import Comparison
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest, Shard
from likeness.index.published import Pin
from likeness.ops.reports import build_figures, figures
from likeness.ops.reports.model_report import write_model_report
from likeness.ops.reports.pages import render_page
from likeness.ops.reports.samples import Samples, draw_samples
from likeness.ops.reports.terminal import display_path, summary
from likeness.storage.run_history import RunRow
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, RUNS, TABLES


@dataclass(frozen=True)
class RunReport:
    """The values of a run's page; those of a build are None if there is no build.

    `pins` are the builds that a rollback has pinned. `neighbours` is the reason if they were not compared.
    """

    run: RunRow
    headline: str
    identities: Sequence[figures.CountIdentity]
    stages: Sequence[figures.StageLine]
    reuse_rate: str
    failures: figures.FailureSummary
    settings: Sequence[figures.SettingLine]
    snapshots: Sequence[tuple[str, int | None, int | None]]
    pins: Sequence[Pin]
    manifest: Manifest | None
    worst: Shard | None
    categories: tuple[list[tuple[str, int]], list[tuple[str, int]]] | None
    shards: Sequence[Shard]
    trial: Shard | None
    neighbours: Comparison | str | None
    samples: Samples | None


def write_run_report(row: RunRow, settings: Settings, manifest: Manifest | None) -> str:
    """Writes ROOT/reports/RUN_ID.html, and the same as latest.html.

    Args:
        row: the run's row of the `runs` table.
        settings: of the run.
        manifest: of the build in service, or of the one that was refused; None if there is neither.

    Returns:
        where the report is, for people: a path, or a URI if it is not local.
    """
    page = render_page("report.html.j2", run_report(row, settings, manifest, TableReader(settings)))
    folder = uris.join(uris.canonical(settings.root), "reports")
    report = uris.join(folder, f"{row.run_id}.html")
    for uri in (report, uris.join(folder, "latest.html")):
        storage.files(uri).write(uri, page)
    return display_path(report)


def run_report(row: RunRow, settings: Settings, manifest: Manifest | None, tables: TableReader) -> RunReport:
    """Collects the values of a run's page from its row, its build and the tables."""
    builds = Builds.open(settings)
    snapshots = {table.name: tables.snapshot(table) for table in TABLES if table is not RUNS}
    return RunReport(
        run=row,
        headline=figures.headline(row.facts, manifest, row.build),
        identities=figures.count_identities(row.facts),
        stages=figures.stage_lines(row.facts),
        reuse_rate=figures.reuse_rate(row.facts),
        failures=figures.failure_summary(tables.read(FAILURES)),
        settings=figures.setting_lines(settings),
        snapshots=figures.snapshot_lines(row.facts, snapshots),
        pins=builds.pins(row.space or ""),
        manifest=manifest,
        worst=build_figures.worst_shard(manifest) if manifest else None,
        categories=build_figures.largest_categories(manifest) if manifest else None,
        shards=build_figures.shards(manifest) if manifest else (),
        trial=build_figures.trial_shard(manifest) if manifest else None,
        neighbours=_neighbour_precision(tables, manifest) if manifest else None,
        samples=draw_samples(builds, manifest, tables) if manifest else None,
    )


def _neighbour_precision(tables: TableReader, manifest: Manifest) -> Comparison | str:
    """How often neighbours have the category of the query, by metric; the reason if it cannot be measured."""
    try:
        return compare_spaces.measure_build(tables, manifest)
    except (LikenessError, OSError) as error:
        return str(error)


__all__ = ["RunReport", "run_report", "summary", "write_model_report", "write_run_report"]
