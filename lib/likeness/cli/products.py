"""`likeness hide`, `show` and `forget`: products that answers must leave out, for now or for good.   [typer]"""

import datetime
from typing import Annotated

import typer

from likeness.catalog.hidden_products import HiddenProducts
from likeness.cli.common import AsJson, show_result, show_table, with_root
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS

Products = Annotated[list[str], typer.Argument(help="product ids, as in the catalogue")]


@with_root
def hide(settings: Settings, products: Products) -> None:
    """Remove products from all answers.

    Takes effect within seconds; `likeness show` puts them back.
    """
    listed = TableReader(settings).read(LISTINGS, ("product_id",))["product_id"].unique().to_pylist()
    if missing := sorted(set(products) - set(listed)):
        raise UsageError(
            f"no listing names product {', '.join(map(repr, missing))}; nothing is changed. "
            "A product id is the catalogue's, or the photo's path in its folder if there is no catalogue"
        )
    HiddenProducts(settings.root).hide(products)
    print(f"hidden: {', '.join(products)}; `likeness show PRODUCT` puts it back, `likeness show` lists hidden products")


@with_root
def show(
    settings: Settings,
    products: Annotated[
        list[str] | None, typer.Argument(help="product ids to put back (default: list hidden products)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put hidden products back, or list them."""
    store = HiddenProducts(settings.root)
    hidden = store.all()
    if products:
        if unknown := sorted(set(products) - {product_id for product_id, _ in hidden}):
            raise UsageError(f"not hidden: {', '.join(map(repr, unknown))}; `likeness show` lists hidden products")
        store.show(products)
        print(f"back in answers: {', '.join(products)}")
        return
    times = [datetime.datetime.fromtimestamp(since, datetime.UTC).isoformat() for _, since in hidden]
    rows = [{"product_id": product_id, "since": time} for (product_id, _), time in zip(hidden, times, strict=True)]
    titles, cells = ("hidden product", "since"), [tuple(row.values()) for row in rows]
    show_result(rows, as_json, lambda: show_table(titles, cells, f"no product of root {settings.root} is hidden"))


@with_root
def forget(settings: Settings, products: Products) -> None:
    """Erase products for good.

    Deletes their rows, photos and vectors, the builds and reports that contain them, and older snapshots.
    """
    current = Builds.open(settings).current()
    if current:  # the next build must be of the space in service
        extract = settings.extract.model_copy(update={"space": current.space})
        settings = settings.model_copy(update={"extract": extract})
    from likeness.spark.jobs import forget_products

    forget_products(settings, list(dict.fromkeys(products)))
    print("erased; remove them from the source as well, or the next nightly run lists them again")
