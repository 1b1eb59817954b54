"""`likeness search`: one query without a server."""

import time
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
    image: Annotated[Path, typer.Argument(help="the photo to search with")],
    category: Annotated[str, typer.Option(help="auto (the best predicted), all, or a name")] = "auto",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="number of results")] = 10,
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    space: Annotated[str, typer.Option(help="feature space to search in (default: the default space)")] = "",
    where: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: only products with such an attribute; may be repeated")
    ] = None,
    look: Annotated[
        list[QueryView] | None,
        typer.Option(help="search with a further view too (turned, whole, sharp); may be repeated, each takes time"),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="write query and results as a picture (PNG)")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the products that look like a photo."""
    # other commands start at once: models are loaded only here
    from likeness.serving.library import Library
    from likeness.serving.query_encoder import PhotoError

    photo, start = read_photo(image), time.perf_counter()
    with Library(settings) as library:
        try:
            answer = library.search(
                photo, looks=look or (), k=k, category=category, build=build, space=space, where=where or ()
            )
        except PhotoError as error:
            raise UsageError(f"{image} cannot be searched with: {error}") from None
        load_ms = (time.perf_counter() - start) * 1000 - sum(answer.took_ms.values())
        answer = answer.model_copy(update={"took_ms": answer.took_ms | {"load": round(load_ms, 3)}})
        if save:
            _save(save, photo, answer, library.tables)
    show_result(answer, as_json, lambda: _show(answer))


def _show(answer: "Answer") -> None:
    rows = [
        (place, f"{result.score:.4f}", result.product_id, result.category, result.uri)
        for place, result in enumerate(answer.results, 1)
    ]
    show_table(("", "score", "product", "category", "photo"), rows)
    category, coverage = answer.category, answer.coverage
    print(
        f"{answer.space}, build {answer.build}: predicted {category.predicted} ({category.score:.0%}), "
        f"searched {', '.join(category.searched)}: {coverage.searched} of {coverage.vectors} vectors "
        f"in {answer.took_ms['search']:.1f} ms"
    )


def _save(path: Path, photo: bytes, answer: "Answer", tables: TableReader) -> None:
    from likeness.images.contact_sheet import draw_contact_sheet

    photos = tables.photos([result.image_id for result in answer.results])
    tiles: list[tuple[bytes | None, str]] = [(photo, f"query\n{answer.category.predicted}?")]
    tiles += [(photos.get(one.image_id), f"{one.score:.3f} {one.category}\n{one.product_id}") for one in answer.results]
    try:
        path.write_bytes(draw_contact_sheet(tiles, columns=min(6, len(tiles))))
    except OSError as error:
        raise UsageError(f"--save {path}: {error.strerror}; name a file that can be written") from None
