"""`likeness unlock`: lists the leases of a root, and releases one.   [typer]"""

import dataclasses
from typing import Annotated

import typer

from likeness.cli.common import AsJson, show_json, show_table, with_settings
from likeness.core.settings import Settings
from likeness.storage import leases


@with_settings
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
        if as_json:
            show_json({"released": dataclasses.asdict(released)})
        else:
            print(f"released: {name}, {released.holder}")
        return
    active = leases.held_leases(settings.root)
    if as_json:
        show_json([dataclasses.asdict(lease) for lease in active])
    elif not active:
        print(f"no run holds a lease of root {settings.root}")
    else:
        columns = ("name", "state", "run_id", "started", "host", "pid", "beat_age_s")
        titles = ("lease", "state", "run", "started", "host", "process", "last heartbeat, s ago")
        show_table(titles, [[getattr(lease, column) for column in columns] for lease in active])
