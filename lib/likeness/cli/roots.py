"""`likeness copy`, `unlock`, `hbase-init`: copies a root, releases its leases, creates its keyed store.   [typer]"""

import operator
from typing import Annotated

import typer

from likeness import storage
from likeness.cli.common import AsJson, show_result, show_table, with_root, with_settings
from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.storage import leases


@with_root
def copy(settings: Settings, to: Annotated[str, typer.Argument(help="the new root: a path or hdfs://")]) -> None:
    """Copy a root to another place.

    Copies tables, builds, reports and a SQLite keyed store.
    """
    from likeness.spark.jobs import copy_root

    copy_root(settings, to)
    print(f"check it: likeness verify --root {to}")


@with_root
def unlock(
    settings: Settings,
    name: Annotated[str, typer.Option(help="release this lease (default: list all leases)")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="release it even if its run is alive; the run stops before its next commit")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the leases of jobs, or release one.

    With --name, releases the lease of a dead run, or of any run with --force.
    """
    if name:
        released = leases.release(settings.root, name, force)
        show_result({"released": released}, as_json, lambda: print(f"released: {name}, {released.holder}"))
        return
    active = leases.held_leases(settings.root)
    fields = operator.attrgetter("name", "state", "run_id", "started", "host", "pid", "beat_age_s")
    titles = ("lease", "state", "run", "started", "host", "process", "last heartbeat, s ago")
    none = f"no run holds a lease of root {settings.root}"
    show_result(active, as_json, lambda: show_table(titles, map(fields, active), none))


@with_settings
def hbase_init(settings: Settings) -> None:
    """Create the keyed store's tables in HBase.

    Existing tables are not changed.
    """
    uri = storage.keyed_uri(settings.keyed.uri, settings.root)
    if uris.scheme(uri) != "hbase":
        raise UsageError(f"keyed.uri = {uri!r} is not HBase; write hbase://host:port/name")
    storage.keyed(uri, create=True).close()
    print(f"{uri}: all tables exist")
