"""`likeness forget` and `copy`: products that must be gone for good, and a root at another place.   [typer]"""

from typing import Annotated

import typer

from likeness.cli.common import Assignments, Config, Root, load
from likeness.manifest import Builds


def forget(
    products: Annotated[list[str], typer.Argument(help="product ids, as the catalogue names them")],
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Erase products: rows, photos, vectors, builds that hold them, reports and older snapshots."""
    given = load(root, config, assignments)
    current = Builds(given.root).current()
    if current:  # the build that takes over is one of the space in service
        extract = given.extract.model_copy(update={"space": current.space})
        given = given.model_copy(update={"extract": extract})
    from likeness.spark.jobs import forget_products

    forget_products(given, list(dict.fromkeys(products)))
    print("forgotten; take them out of the source as well, or the next nightly run lists them again")


def copy(
    to: Annotated[str, typer.Argument(help="the new root: a path or hdfs://")],
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Copy a root to another place, with tables, builds, reports and a SQLite keyed store."""
    given = load(root, config, assignments)
    from likeness.spark.jobs import copy_root

    copy_root(given, to)
    print(f"try it: likeness verify --root {to}")
