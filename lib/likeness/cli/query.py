"""`likeness search`: one query without a server."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.cli.common import AsJson, read_photo, show_result, show_table, with_settings
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.images.query_views import QueryView
from likeness.storage.table_reader import TableReader

if TYPE_CHECKING:
    from likeness.serving.responses import Answer


@with_settings
def search(
    settings: Settings,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[IMAGE]...", help="the photo to search with, or several of one thing"),
    ] = None,
    product: Annotated[str, typer.Option(help="search with a product of the catalogue, in place of photos")] = "",
    box: Annotated[
        str, typer.Option(help="LEFT,TOP,RIGHT,BOTTOM of the part of each photo to search with, each between 0 and 1")
    ] = "",
    combine: Annotated[
        str, typer.Option(help="of several photos: best (the nearest of them counts), or mean")
    ] = "best",
    look: Annotated[
        list[QueryView] | None,
        typer.Option(help="search with a further view too (turned, whole, sharp); may be repeated, each takes time"),
    ] = None,
    category: Annotated[str, typer.Option(help="auto (the best predicted), all, or a name")] = "auto",
    where: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: only products with such an attribute; may be repeated")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="number of results")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="results to skip: those of the pages before")] = 0,
    distinct: Annotated[bool, typer.Option("--distinct", help="one result a product")] = False,
    min_score: Annotated[float | None, typer.Option(help="leave out results of a lower score")] = None,
    near_duplicate: Annotated[
        float | None, typer.Option(help="leave out results whose cosine to a better one is so high, such as 0.95")
    ] = None,
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    space: Annotated[str, typer.Option(help="feature space to search in (default: the default space)")] = "",
    save: Annotated[Path | None, typer.Option(help="write query and results as a picture (PNG)")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the products that look like a photo, or like a product."""
    if bool(images) == bool(product):
        raise UsageError("name one or more photos, or --product ID" + ", not both" * bool(product))
    if product and (box or look or combine != "best"):
        raise UsageError(f"--product {product}: --box, --look and --combine are for photos; remove them")
    # other commands start at once: models are loaded only here
    from likeness.serving.library import Library
    from likeness.serving.query_encoder import PhotoError
    from likeness.serving.query_terms import read_box
    from likeness.serving.search_params import SearchOptions

    options = SearchOptions(
        k=k, category=category, offset=offset, distinct=distinct, where=where or (), build=build, space=space
    )
    if min_score is not None:
        options["min_score"] = min_score
    if near_duplicate is not None:
        options["near_duplicate"] = near_duplicate
    photos, start = [read_photo(path) for path in images or ()], time.perf_counter()
    with Library(settings) as library:
        try:
            if product:
                answer = library.similar(product, **options)
            else:
                part = read_box(box.split(",")) if box else None
                answer = library.search(*photos, box=part, combine=combine, looks=look or (), **options)
        except PhotoError as error:
            raise UsageError(f"{', '.join(map(str, images or ()))} cannot be searched with: {error}") from None
        load_ms = (time.perf_counter() - start) * 1000 - sum(answer.took_ms.values())
        answer = answer.model_copy(update={"took_ms": answer.took_ms | {"load": round(load_ms, 3)}})
        if save:
            _save(save, photos, answer, library.tables)
    show_result(answer, as_json, lambda: _show(answer))


def _show(answer: "Answer") -> None:
    rows = [
        (place, f"{result.score:.4f}", result.product_id, result.category, result.uri)
        for place, result in enumerate(answer.results, 1)
    ]
    show_table(("", "score", "product", "category", "photo"), rows, "no results")
    category, coverage = answer.category, answer.coverage
    print(
        f"{answer.space}, build {answer.build}: predicted {category.predicted} ({category.score:.0%}), "
        f"searched {', '.join(category.searched)}: {coverage.searched} of {coverage.vectors} vectors "
        f"in {answer.took_ms['search']:.1f} ms"
    )
    for reason in coverage.degraded:
        print(f"incomplete: {reason}")
    for hint in answer.hints:
        print(f"hint: {hint}")


def _save(path: Path, photos: Sequence[bytes], answer: "Answer", tables: TableReader) -> None:
    from likeness.images.contact_sheet import draw_contact_sheet

    images = tables.photos([result.image_id for result in answer.results])
    tiles: list[tuple[bytes | None, str]] = [(photo, f"query\n{answer.category.predicted}?") for photo in photos]
    tiles += [(images.get(one.image_id), f"{one.score:.3f} {one.category}\n{one.product_id}") for one in answer.results]
    if not tiles:
        raise UsageError(f"--save {path}: there are no results to draw")
    try:
        path.write_bytes(draw_contact_sheet(tiles, columns=min(6, len(tiles))))
    except OSError as error:
        raise UsageError(f"--save {path}: {error.strerror}; name a file that can be written") from None
