"""`likeness evaluate`: what a build is worth by judgements of people, or a network by a labelled folder.   [typer]"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from likeness.cli.common import AsJson, Assignments, Config, Root, interval, load, show_json, show_table
from likeness.core.errors import UsageError
from likeness.core.settings import Settings

_NAMED = 20


def evaluate(
    judgements: Annotated[
        Path | None, typer.Option(help="CSV of query, product_id and relevance (default 1): what a build is worth")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="folder with a folder of photos for each class: what a network is worth")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="with --labels: as `likeness backbones` lists it")
    ] = "efficientnet_lite0",
    root: Root = None,
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="products that count of each answer")] = 10,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """What a build is worth by judged queries (recall, nDCG), or a network by a labelled folder (top-1, top-5)."""
    if (judgements is None) == (labels is None):
        raise UsageError("name one of --judgements FILE and --labels FOLDER")
    settings = load(root, config, assignments)
    if judgements:
        from likeness.evaluation.judged_search import evaluate as judged

        told = judged(settings, build, judgements, k).plain()
        show = _show
    else:
        assert labels
        told = _classified(settings, backbone, labels)
        show = _show_classes
    if as_json:
        show_json(told)
    else:
        show(told)


def _classified(settings: Settings, backbone: str, folder: Path) -> dict[str, Any]:
    from likeness.models.imagenet_classifier import ImagenetClassifier

    classifier = ImagenetClassifier(settings, backbone, os.cpu_count() or 1)
    published = classifier.space.spec.published
    return {
        "space": classifier.space.id,
        **classifier.measure(folder).plain(),
        "published": vars(published) if published else None,
    }


def _show_classes(told: dict[str, Any]) -> None:
    published = told["published"] or {}
    rows = [
        (name, interval(told[key]), published.get(key) and f"{published[key] / 100:.4f}")
        for name, key in (("top-1", "top1"), ("top-5", "top5"))
    ]
    show_table(("", "here", "published"), rows)
    source = f"; published for ImageNet's validation photos: {published['source']}" if published else ""
    print(f"{told['space']}: {told['photos']:,} photos; (from-to): 95 %, by Wilson{source}")
    for path, why in list(told["failures"].items())[:_NAMED]:
        print(f"left out: {path}: {why}")


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
