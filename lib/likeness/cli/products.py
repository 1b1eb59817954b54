"""`likeness hide`, `show` and `forget`: products that must not be answered, for now or for good.   [typer]"""

import datetime
from typing import Annotated

import typer

from likeness.catalog.hidden_products import HiddenProducts
from likeness.cli.common import AsJson, Assignments, Config, Root, load, show_json, show_table
from likeness.core.errors import UsageError
from likeness.index.builds import Builds
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS

Products = Annotated[list[str], typer.Argument(help="product ids, as the catalogue names them")]


def hide(
    products: Products,
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Take products out of all answers within seconds, until they are shown again."""
    settings = load(root, config, assignments)
    listed = TableReader(settings).read(LISTINGS, ("product_id",))["product_id"].unique().to_pylist()
    if missing := sorted(set(products) - set(listed)):
        raise UsageError(
            f"no listing names product {', '.join(map(repr, missing))}; nothing is changed. "
            "An id is what the catalogue names it, or a photo's path in its folder"
        )
    HiddenProducts(settings.root).hide(products)
    print(f"hidden: {', '.join(products)}; `likeness show PRODUCT` puts it back, `likeness show` lists what is hidden")


def show(
    products: Annotated[list[str] | None, typer.Argument(help="product ids; none lists what is hidden")] = None,
    root: Root = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Put hidden products back into the answers; without a name, list what is hidden."""
    hidden = HiddenProducts(load(root, config, assignments).root)
    there = hidden.all()
    if products:
        if unknown := sorted(set(products) - {product_id for product_id, _ in there}):
            raise UsageError(f"not hidden: {', '.join(map(repr, unknown))}; `likeness show` lists what is")
        hidden.show(products)
        print(f"shown again: {', '.join(products)}")
        return
    rows = [
        (product_id, datetime.datetime.fromtimestamp(since, datetime.UTC).isoformat()) for product_id, since in there
    ]
    if as_json:
        show_json([{"product_id": product_id, "since": since} for product_id, since in rows])
    else:
        show_table(("hidden product", "since"), rows)


def forget(
    products: Products,
    root: Root = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Erase products: rows, photos, vectors, builds that hold them, reports and older snapshots."""
    settings = load(root, config, assignments)
    current = Builds(settings.root).current()
    if current:  # the build that takes over is one of the space in service
        extract = settings.extract.model_copy(update={"space": current.space})
        settings = settings.model_copy(update={"extract": extract})
    from likeness.spark.jobs import forget_products

    forget_products(settings, list(dict.fromkeys(products)))
    print("forgotten; take them out of the source as well, or the next nightly run lists them again")
