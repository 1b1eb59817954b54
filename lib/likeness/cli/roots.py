"""`likeness copy`: copies a root to another place.   [typer]"""

from typing import Annotated

import typer

from likeness.cli.common import with_settings
from likeness.core.settings import Settings


@with_settings
def copy(settings: Settings, to: Annotated[str, typer.Argument(help="the new root: a path or hdfs://")]) -> None:
    """Copy a root to another place.

    Copies tables, builds, reports and a SQLite keyed store.
    """
    from likeness.spark.jobs import copy_root

    copy_root(settings, to)
    print(f"check it: likeness verify --root {to}")
