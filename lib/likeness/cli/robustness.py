"""`likeness robustness`: what a build finds again of photos that people have changed.   [typer]"""

import sys
from typing import Annotated, Any

import typer

from likeness.cli.common import AsJson, Assignments, Config, Root, interval, load, show_json, show_table
from likeness.images.query_views import QueryView


def robustness(
    root: Root = None,
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    photos: Annotated[int, typer.Option(min=1, help="photos of the build that are drawn")] = 200,
    look: Annotated[
        list[QueryView] | None, typer.Option(help="further looks that are tried; may be repeated (default: all)")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """How often a photo that was mirrored, cut, turned, marked or blurred finds itself first, and what helps."""
    from likeness.evaluation import robustness as robust

    settings = load(root, config, assignments)
    looks = tuple(dict.fromkeys(look or QueryView))
    found = robust.robustness(
        settings, build, photos, looks, lambda told: print(f"robustness: {told}", file=sys.stderr)
    )
    told = found.plain()
    if as_json:
        show_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    asked = told["asked"]
    names = ["by itself", *(" + ".join(one["looks"]) for one in asked[1:])]
    rows = [(change, *(interval(one["recall"][change]) for one in asked)) for change in asked[0]["recall"]]
    cost = [f"{one['pictures']}, {one['ms']:.0f} ms" for one in asked]
    show_table(("photo", *names), [*rows, ("pictures, time of a query", *cost)])
    print(
        f"{told['build']}: recall@1 among {told['images']:,} images, of {told['photos']:,} photos of its own, changed; "
        "(from-to): 95 %, by Wilson; looks: likeness search --look NAME, or looks=NAME of the service"
    )
