"""`likeness search`: one query without a server."""

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

from likeness import storage
from likeness.catalog.hidden_products import HiddenProducts
from likeness.cli.common import AsJson, Assignments, Config, Root, load, read_photo, show_json, show_table
from likeness.core.errors import UsageError
from likeness.images.image import BadImage
from likeness.images.query_views import QueryView
from likeness.index.builds import Builds
from likeness.storage.table_reader import TableReader


def search(
    image: Annotated[Path, typer.Argument(help="the photo to search with")],
    root: Root = None,
    category: Annotated[str, typer.Option(help="auto (the best predicted), all, or a name")] = "auto",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="results wanted")] = 10,
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    where: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: only products with such an attribute; may be repeated")
    ] = None,
    look: Annotated[
        list[QueryView] | None,
        typer.Option(help="look at the photo in other ways too (turned, whole, sharp); may be repeated, takes time"),
    ] = None,
    save: Annotated[Path | None, typer.Option(help="write query and results as a picture (PNG)")] = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Find the products that look like a photo."""
    # the models are loaded only where they are needed: other commands start at once
    from likeness.serving.attribute_filter import AttributeLookup
    from likeness.serving.encoder import Encoder
    from likeness.serving.leaf import Leaf
    from likeness.serving.root import Root as Merger
    from likeness.serving.root import SearchParams

    settings = load(root, config, assignments)
    photo = read_photo(image)
    begun = time.perf_counter()
    builds = Builds(settings.root, settings.extract.cache)
    manifest = builds.find(build)
    merger = Merger(manifest, Leaf(builds, manifest), HiddenProducts(settings.root))
    encoder = Encoder(settings, manifest.space)
    loaded = time.perf_counter()
    try:
        vectors = encoder.encode(photo, looks=look or ())
    except BadImage as bad:
        raise UsageError(f"{image} cannot be searched with: {bad}") from None
    encoded = time.perf_counter()
    with ExitStack() as stack:
        facts = None
        if where:
            store = stack.enter_context(closing(storage.keyed(storage.keyed_uri(settings.keyed.uri, settings.root))))
            facts = AttributeLookup(lambda: store, manifest.space)
        wish = SearchParams(k, category, where=where or ())
        answer = merger.search(vectors, manifest.space, wish, known=facts)
    answer["took_ms"] |= {
        "load": round((loaded - begun) * 1000, 3),
        "encode": round((encoded - loaded) * 1000, 3),
    }
    if save:
        _save(save, photo, answer, TableReader(settings))
    if as_json:
        show_json(answer)
    else:
        _show(answer)


def _show(answer: dict[str, Any]) -> None:
    rows = [
        (place, f"{result['score']:.4f}", result["product_id"], result["category"], result["uri"])
        for place, result in enumerate(answer["results"], 1)
    ]
    show_table(("", "score", "product", "category", "photo"), rows)
    category, coverage = answer["category"], answer["coverage"]
    print(
        f"{answer['space']}, build {answer['build']}: predicted {category['predicted']} ({category['score']:.0%}), "
        f"searched {', '.join(category['searched'])}: {coverage['searched']} of {coverage['vectors']} vectors "
        f"in {answer['took_ms']['search']:.1f} ms"
    )


def _save(path: Path, photo: bytes, answer: dict[str, Any], warehouse: TableReader) -> None:
    from likeness.images.contact_sheet import grid

    photos = warehouse.photos([result["image_id"] for result in answer["results"]])
    tiles: list[tuple[bytes | None, str]] = [(photo, f"query\n{answer['category']['predicted']}?")]
    for result in answer["results"]:
        caption = f"{result['score']:.3f} {result['category']}\n{result['product_id']}"
        tiles.append((photos.get(result["image_id"]), caption))
    try:
        path.write_bytes(grid(tiles, columns=min(6, len(tiles))))
    except OSError as error:
        raise UsageError(f"--save {path}: {error.strerror}; name a file that can be written") from None
