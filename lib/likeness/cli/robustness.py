"""`likeness robustness`: how well a build finds photos again that people have changed.   [typer]"""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.cli.common import AsJson, interval, show_json, show_table, with_settings
from likeness.core.settings import Settings
from likeness.images.query_views import QueryView

if TYPE_CHECKING:
    from likeness.evaluation.robustness import Robustness


@with_settings
def robustness(
    settings: Settings,
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    photos: Annotated[int, typer.Option(min=1, help="photos of the build to draw")] = 200,
    look: Annotated[
        list[QueryView] | None, typer.Option(help="further view to try; may be repeated (default: all)")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how well changed photos are found.

    How often a mirrored, cut, turned, marked or blurred photo finds its original first, and which `--look` helps.
    """
    from likeness.evaluation import robustness as evaluation

    looks = tuple(dict.fromkeys(look or QueryView))
    result = evaluation.robustness(
        settings, build, photos, looks, lambda line: print(f"robustness: {line}", file=sys.stderr)
    )
    if as_json:
        show_json(result.plain())
    else:
        _show(result)


def _show(result: "Robustness") -> None:
    names = ["by itself", *(" + ".join(one.looks) for one in result.views[1:])]
    rows = [
        (change, *(interval(vars(one.recall[change])) for one in result.views)) for change in result.views[0].recall
    ]
    cost = [f"{one.pictures}, {one.ms:.0f} ms" for one in result.views]
    show_table(("photo", *names), [*rows, ("pictures, time of a query", *cost)])
    print(
        f"{result.build}: recall@1 among {result.images:,} images, of {result.photos:,} photos of its own, changed; "
        "(from-to): 95 %, by Wilson; looks: likeness search --look NAME, or looks=NAME of the service"
    )
