"""`likeness unlock`: who holds the leases of a root, and the release of one.   [typer]"""

import dataclasses
from typing import Annotated

import typer

from likeness.cli.common import AsJson, Assignments, Config, Root, load, show_json, show_table
from likeness.storage import leases


def unlock(
    root: Root = None,
    name: Annotated[str, typer.Option(help="release this lease (default: list all that are held)")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="even if its holder lives: it stops before it commits")
    ] = False,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Who works on a root; with --name, release the lease of a dead run, or of any with --force."""
    settings = load(root, config, assignments)
    if name:
        was = leases.release(settings.root, name, force)
        if as_json:
            show_json({"released": dataclasses.asdict(was)})
        else:
            print(f"released: {name}, {was.holder}")
        return
    found = leases.held(settings.root)
    if as_json:
        show_json([dataclasses.asdict(one) for one in found])
    elif not found:
        print(f"no run holds a lease of root {settings.root}")
    else:
        columns = ("name", "state", "run_id", "started", "host", "pid", "beat_age_s")
        titles = ("lease", "holder", "run", "started", "host", "process", "last beat, s ago")
        show_table(titles, [[getattr(one, column) for column in columns] for one in found])
