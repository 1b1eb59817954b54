"""`likeness evaluate`: what a build is worth by judgements of people.   [typer]"""

from pathlib import Path
from typing import Annotated, Any

import typer

from likeness.cli.common import AsJson, Assignments, Config, Root, interval, load, show_json, show_table

_NAMED = 20


def evaluate(
    judgements: Annotated[Path, typer.Option(help="CSV of query, product_id and relevance (default 1)")],
    root: Root = None,
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="products that count of each answer")] = 10,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Recall and nDCG at product level of a build, by judgements of which products answer which query."""
    from likeness.serving.judged import evaluate as judged

    told = judged(load(root, config, assignments), build, judgements, k).plain()
    if as_json:
        show_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    rows = [(category, *map(interval, figures.values())) for category, figures in told["figures"].items()]
    show_table(("searched", f"recall@{told['k']}", f"nDCG@{told['k']}"), rows)
    each = ", ".join(f"{count:,} by {kind}" for kind, count in told["queries"].items() if count)
    print(
        f"{told['build']}: {sum(told['queries'].values()):,} queries ({each}), {told['judged']:,} judgements; "
        "(from-to): 95 % of resampled queries"
    )
    if told["absent"]:
        names = [f"{name} ({why})" for name, why in told["absent"].items()]
        more = f" and {len(names) - _NAMED:,} more, see --json" if len(names) > _NAMED else ""
        one = len(names) == 1
        print(
            f"{len(names):,} judged product{'' if one else 's'} cannot be found, and count{'s' if one else ''} as not "
            f"found: {', '.join(names[:_NAMED])}{more}"
        )
