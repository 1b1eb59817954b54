"""Run reports: a run's row and its build in, an HTML file and a summary for the terminal out.   [jinja2]

The page needs nothing but itself: style and photos are inline, and there is no script.
"""

from collections.abc import Mapping
from typing import Any

from likeness import storage
from likeness.core import formatting, uris
from likeness.core.errors import LikenessError
from likeness.core.settings import Settings
from likeness.evaluation import compare_spaces
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.ops.reports import figures, samples
from likeness.ops.reports.model_report import write_trained
from likeness.ops.reports.pages import page
from likeness.ops.reports.terminal import shown, summary
from likeness.storage.run_history import RunRow
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, RUNS, TABLES

_LEDGER = ("what", "stage", "space", "reason", "detail", "attempts", "last")


def write(row: RunRow, settings: Settings, manifest: Manifest | None) -> str:
    """Writes ROOT/reports/RUN_ID.html, and the same as latest.html.

    Args:
        row: the run's row of the `runs` table.
        settings: of the run.
        manifest: of the build in service, or of the one that was refused; None if there is neither.

    Returns:
        where the report is, for people: a path, or a URI if it is not local.
    """
    warehouse, builds = TableReader(settings), Builds(settings.root, settings.extract.cache)
    made = render(
        context(row, settings, manifest)
        | {
            "failures": figures.failures(warehouse.read(FAILURES, _LEDGER)),
            "samples": samples.draw(builds, manifest, warehouse) if manifest else None,
            "agreement": agreement(warehouse, manifest) if manifest else None,
            "snapshots": figures.snapshots(
                row.facts.dump(),
                {table.name: warehouse.snapshot(table) for table in TABLES if table is not RUNS},
            ),
        }
    )
    folder = uris.join(uris.canonical(settings.root), "reports")
    place = uris.join(folder, f"{row.run_id}.html")
    for uri in (place, uris.join(folder, "latest.html")):
        storage.files(uri).write(uri, made)
    return shown(place)


def agreement(warehouse: TableReader, manifest: Manifest) -> dict[str, Any]:
    """How often near photos are of one category, by metric; `missing` says why that is not known."""
    try:
        return figures.agreement(compare_spaces.of_build(warehouse, manifest))
    except (LikenessError, OSError) as error:
        return {"rows": [], "missing": str(error)}


def context(row: RunRow, settings: Settings, manifest: Manifest | None) -> dict[str, Any]:
    """What the page says of a run and its build; the tables and the samples are not asked."""
    facts = row.facts.dump()
    return {
        "run": row,
        "started": formatting.timestamp(row.started),
        "took": formatting.duration((row.ended - row.started).total_seconds()) if row.ended else "",
        "sentence": figures.sentence(facts, manifest, row.build),
        "manifest": manifest,
        "worst": figures.worst_shard(manifest) if manifest else None,
        "identities": figures.identities(facts),
        "stages": figures.stages(facts),
        "reuse": figures.reuse(facts),
        "suspect_labels": row.facts.suspect_labels,
        "categories": figures.categories(manifest) if manifest else None,
        "shards": figures.shards(manifest) if manifest else None,
        "curve": figures.curve(manifest) if manifest else None,
        "settings": figures.settings_rows(settings),
    }


def render(values: Mapping[str, Any]) -> bytes:
    """The page."""
    return page("report.html.j2", values)


__all__ = ["context", "render", "summary", "write", "write_trained"]
