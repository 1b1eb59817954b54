"""`likeness copy`: a root at another place.   [typer]"""

from typing import Annotated

import typer

from likeness.cli.common import Assignments, Config, Root, load


def copy(
    to: Annotated[str, typer.Argument(help="the new root: a path or hdfs://")],
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Copy a root to another place, with tables, builds, reports and a SQLite keyed store."""
    settings = load(root, config, assignments)
    from likeness.spark.jobs import copy_root

    copy_root(settings, to)
    print(f"try it: likeness verify --root {to}")
