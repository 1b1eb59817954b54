"""`likeness status`: the content of a root, its running jobs, and what the next nightly run would change."""

import dataclasses
import datetime
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from likeness.catalog.hidden_products import HiddenProducts
from likeness.cli.common import AsJson, show_result, show_table, with_root
from likeness.core.errors import UsageError
from likeness.core.formatting import pluralize
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.index.published import Pin
from likeness.ops.backfill_coverage import CoverageCell, backfill_coverage
from likeness.storage import leases
from likeness.storage.leases import LeaseState
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, LISTINGS

_STATES = {"alive": "at work", "dead": "left by a dead run", "damaged": "damaged"}


@dataclass(frozen=True)
class ChangesSince:
    """Vectors and listings that came after a build; None if the snapshot of the build has expired."""

    vectors: int | None
    listings: int


@dataclass(frozen=True)
class BuildStatus:
    """The build in service of a space; `pinned` is when a rollback pinned it (ISO 8601), else empty."""

    space: str
    build: str
    created: str
    images: int
    vectors: int
    shards: int
    deltas: int
    removed: int
    pinned: str
    since: ChangesSince


@dataclass(frozen=True)
class RootStatus:
    """The status of a root, with the field names of the JSON output.

    `in_service` is the build of the default space, `spaces` those of all spaces in service, the default first.
    """

    root: str
    matrix: Sequence[CoverageCell]
    in_service: BuildStatus | None
    spaces: Sequence[BuildStatus]
    builds: Sequence[str]
    leases: Sequence[LeaseState]
    failures: dict[str, int]
    hidden: int


@with_root
def status(settings: Settings, as_json: AsJson = False) -> None:
    """Show the state of a root.

    Running jobs; photos present, missing and failed by ingest date and space; failures; the builds in service.
    """
    tables, builds = TableReader(settings), Builds.open(settings)
    current = [manifest for space in builds.spaces() if (manifest := builds.current(space))]
    in_service = [_build_status(manifest, builds, tables) for manifest in current]
    failures = Counter(tables.read(FAILURES, ("stage",))["stage"].to_pylist())
    report = RootStatus(
        root=settings.root,
        matrix=backfill_coverage(tables),
        in_service=next(iter(in_service), None),
        spaces=in_service,
        builds=list(builds.all()),
        leases=leases.held_leases(settings.root),
        failures=dict(sorted(failures.items())),
        hidden=len(HiddenProducts(settings.root).all()),
    )
    matrix = [dataclasses.asdict(cell) | {"missing": cell.missing} for cell in report.matrix]
    show_result(dataclasses.asdict(report) | {"matrix": matrix}, as_json, lambda: _show(report))


def _build_status(manifest: Manifest, builds: Builds, tables: TableReader) -> BuildStatus:
    pins = [pin.since for pin in builds.pins(manifest.space) if pin.path == manifest.path]
    return BuildStatus(
        space=manifest.space,
        build=manifest.build,
        created=manifest.created,
        images=manifest.images,
        vectors=manifest.vectors,
        shards=len(manifest.shards),
        deltas=sum(shard.delta for shard in manifest.shards),
        removed=sum(shard.tombstoned for shard in manifest.shards),
        pinned=next(iter(pins), ""),
        since=ChangesSince(_new_vectors(manifest, tables), _changed_listings(manifest, tables)),
    )


def _new_vectors(manifest: Manifest, tables: TableReader) -> int | None:
    """Vectors of the space that were added after the build; None if its snapshot has expired."""
    then, now = manifest.snapshots.get(FEATURES.name), tables.snapshot(FEATURES)
    if then == now:
        return 0
    try:
        present, before = (
            sum(part.rows for part in tables.partitions(FEATURES, at) if part.space == manifest.space)
            for at in (now, then)
        )
    except UsageError:
        return None
    return present - before


def _changed_listings(manifest: Manifest, tables: TableReader) -> int:
    """Listings that were added, changed or withdrawn after the build."""
    if manifest.snapshots.get(LISTINGS.name) == tables.snapshot(LISTINGS):
        return 0
    created = datetime.datetime.fromisoformat(manifest.created)  # in whole seconds
    after = created + datetime.timedelta(seconds=1)
    return int(tables.read(LISTINGS, ("since",), f"since >= '{after.isoformat()}'").num_rows)


def _show(report: RootStatus) -> None:
    """Prints the status for people."""
    for lease in report.leases:
        print(f"{_STATES[lease.state]}: {lease.name}, {lease.holder}")
    if not report.matrix:
        print(f"root {report.root} has no photos yet; run ./spark-submit.sh nightly")
        return
    columns = ("ingest_date", "space", "photos", "present", "missing", "failed")
    show_table(columns, map(operator.attrgetter(*columns), report.matrix))
    if report.failures:
        stages = ", ".join(f"{stage} {count:,}" for stage, count in report.failures.items())
        print(f"failures in the ledger: {stages}; `likeness failures list` shows the reasons")
    if report.hidden:
        print(f"hidden products: {report.hidden:,}; `likeness show` lists them")
    if not report.spaces:
        print("nothing is published")
    for build in report.spaces:
        deltas = f" ({build.deltas} of them deltas, {build.removed:,} rows tombstoned)" * bool(build.deltas)
        shards = pluralize(build.shards, "shard")
        print(f"in service: {build.space}/{build.build}, {build.images} images in {shards}{deltas}")
        if build.pinned:
            print(Pin(f"{build.space}/{build.build}", build.pinned))
        print(_pending(build, [cell for cell in report.matrix if cell.space == build.space]))


def _pending(build: BuildStatus, cells: Sequence[CoverageCell]) -> str:
    """What the next nightly run would do with the tables as they are."""
    since = build.since
    missing = sum(cell.missing for cell in cells)
    vectors = "an unknown number of" if since.vectors is None else f"{since.vectors:,}"
    if not (missing or since.listings) and since.vectors == 0:
        return "nothing has changed since; the next nightly run changes the build only if the source has changed"
    return (
        f"since then: {vectors} new vectors, {since.listings:,} changed listings, {missing:,} photos to extract; "
        + (
            "the next nightly run builds with them, and does not publish"
            if build.pinned
            else "the next nightly run adds them"
        )
    )
