"""`likeness status`: what a root holds, who works on it, and what the next night would change."""

import dataclasses
import datetime
from collections import Counter
from collections.abc import Sequence
from typing import Any

from likeness.catalog.hidden_products import HiddenProducts
from likeness.cli.common import AsJson, Assignments, Config, Root, load, show_json, show_table
from likeness.core.errors import UsageError
from likeness.core.formatting import pluralize
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.ops.backfill_coverage import CoverageCell, backfill_coverage
from likeness.storage import leases
from likeness.storage.leases import LeaseState
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, LISTINGS


def status(root: Root = None, as_json: AsJson = False, config: Config = None, assignments: Assignments = None) -> None:
    """Epochs x feature spaces: present, missing, failed; who is at work; the build in service, and what came since."""
    settings = load(root, config, assignments)
    warehouse, builds = TableReader(settings), Builds(settings.root)
    cells, current, held = backfill_coverage(warehouse), builds.current(), leases.held(settings.root)
    failures = Counter(warehouse.read(FAILURES, ("stage",))["stage"].to_pylist())
    told: dict[str, Any] = {
        "root": settings.root,
        "matrix": [dataclasses.asdict(cell) | {"missing": cell.missing} for cell in cells],
        "in_service": _service(current, warehouse) if current else None,
        "builds": list(builds.all()),
        "leases": [dataclasses.asdict(one) for one in held],
        "failures": dict(sorted(failures.items())),
        "hidden": len(HiddenProducts(settings.root).all()),
    }
    if as_json:
        show_json(told)
    else:
        _show(told, cells, held)


def _service(manifest: Manifest, warehouse: TableReader) -> dict[str, Any]:
    """The build in service, with the vectors and listings that it cannot know: None if that can no more be told."""
    since = {"vectors": _new_vectors(manifest, warehouse), "listings": _changes(manifest, warehouse)}
    return {
        "space": manifest.space,
        "build": manifest.build,
        "created": manifest.created,
        "images": manifest.images,
        "vectors": manifest.vectors,
        "shards": len(manifest.shards),
        "deltas": sum(shard.delta for shard in manifest.shards),
        "removed": sum(shard.removed for shard in manifest.shards),
        "since": since,
    }


def _new_vectors(manifest: Manifest, warehouse: TableReader) -> int | None:
    """Vectors of the space that were added after the build."""
    then, now = manifest.snapshots.get(FEATURES.name), warehouse.snapshot(FEATURES)
    if then == now:
        return 0
    try:
        here, before = (
            sum(int(part["rows"]) for part in warehouse.partitions(FEATURES, at) if part["space"] == manifest.space)
            for at in (now, then)
        )
    except UsageError:  # expired
        return None
    return here - before


def _changes(manifest: Manifest, warehouse: TableReader) -> int:
    """Listings that were added, changed or withdrawn after the build."""
    if manifest.snapshots.get(LISTINGS.name) == warehouse.snapshot(LISTINGS):
        return 0
    made = datetime.datetime.fromisoformat(manifest.created) + datetime.timedelta(seconds=1)  # it names whole seconds
    return int(warehouse.read(LISTINGS, ("since",), f"since >= '{made.isoformat()}'").num_rows)


def _show(told: dict[str, Any], cells: Sequence[CoverageCell], held: Sequence[LeaseState]) -> None:
    """The same for a person."""
    for one in held:
        print(f"{_STATES[one.state]}: {one.name}, {one.holder}")
    if not cells:
        print(f"root {told['root']} holds no photos yet; run ./spark-submit.sh nightly")
        return
    columns = ("ingest_date", "space", "photos", "present", "missing", "failed")
    show_table(columns, [[getattr(cell, name) for name in columns] for cell in cells])
    if told["failures"]:
        stages = ", ".join(f"{stage} {count:,}" for stage, count in told["failures"].items())
        print(f"standing failures: {stages}; `likeness failures list` says why")
    if told["hidden"]:
        print(f"hidden products: {told['hidden']:,}; `likeness show` lists them")
    service = told["in_service"]
    if not service:
        print("nothing is published")
        return
    grown = f" ({service['deltas']} of them deltas, {service['removed']:,} rows removed)" * bool(service["deltas"])
    shards = pluralize(service["shards"], "shard")
    print(f"in service: {service['space']}/{service['build']}, {service['images']} images in {shards}{grown}")
    print(_due(service["since"], [cell for cell in cells if cell.space == service["space"]]))


def _due(since: dict[str, int | None], cells: Sequence[CoverageCell]) -> str:
    """What the next nightly run would do with the tables as they are."""
    waiting = sum(cell.missing for cell in cells)
    vectors = "an unknown number of" if since["vectors"] is None else f"{since['vectors']:,}"
    if not (waiting or since["listings"]) and since["vectors"] == 0:
        return "nothing came since; the next nightly run changes it only if the source has changed"
    return (
        f"since then: {vectors} new vectors, {since['listings']:,} changed listings, {waiting:,} photos wait for "
        "extraction; the next nightly run takes them in"
    )


_STATES = {"alive": "at work", "dead": "left by a dead run", "damaged": "damaged"}
