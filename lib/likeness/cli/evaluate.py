"""`likeness evaluate`: a build by judgements of people, or a network by a labelled folder.   [typer]"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from likeness.cli.common import AsJson, interval, show_json, show_table, with_settings
from likeness.core.errors import UsageError
from likeness.core.settings import Settings

if TYPE_CHECKING:
    from likeness.evaluation.judged_search import Evaluation

_NAMED = 20


@with_settings
def evaluate(
    settings: Settings,
    judgements: Annotated[
        Path | None, typer.Option(help="CSV of query, product_id and relevance (default 1): evaluates a build")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="folder with a folder of photos for each class: evaluates a network")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="with --labels: as `likeness backbones` lists it")
    ] = "efficientnet_lite0",
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="products of each answer that count")] = 10,
    as_json: AsJson = False,
) -> None:
    """Evaluate a build or a network.

    A build by judged queries (recall, nDCG), or a network by a labelled folder (top-1, top-5 accuracy).
    """
    if (judgements is None) == (labels is None):
        raise UsageError("name one of --judgements FILE and --labels FOLDER")
    if judgements:
        from likeness.evaluation.judged_search import evaluate as evaluate_build

        evaluation = evaluate_build(settings, build, judgements, k)
        if as_json:
            show_json(dataclasses.asdict(evaluation))
        else:
            _show(evaluation)
    elif labels:
        accuracy = _classified(settings, backbone, labels)
        if as_json:
            show_json(accuracy)
        else:
            _show_classes(accuracy)


def _classified(settings: Settings, backbone: str, folder: Path) -> dict[str, Any]:
    from likeness.models.imagenet_classifier import ImagenetClassifier

    classifier = ImagenetClassifier(settings, backbone, os.cpu_count() or 1)
    published = classifier.space.spec.published
    return {
        "space": classifier.space.id,
        **classifier.evaluate(folder).plain(),
        "published": vars(published) if published else None,
    }


def _show_classes(accuracy: dict[str, Any]) -> None:
    published = accuracy["published"] or {}
    rows = [
        (name, interval(accuracy[key]), published.get(key) and f"{published[key] / 100:.4f}")
        for name, key in (("top-1", "top1"), ("top-5", "top5"))
    ]
    show_table(("", "here", "published"), rows)
    source = f"; published for ImageNet's validation photos: {published['source']}" if published else ""
    print(f"{accuracy['space']}: {accuracy['photos']:,} photos; (from-to): 95 %, by Wilson{source}")
    for path, reason in list(accuracy["failures"].items())[:_NAMED]:
        print(f"left out: {path}: {reason}")


def _show(evaluation: "Evaluation") -> None:
    rows = [
        (category, *(interval(vars(figure)) for figure in figures.values()))
        for category, figures in evaluation.figures.items()
    ]
    show_table(("searched", f"recall@{evaluation.k}", f"nDCG@{evaluation.k}"), rows)
    counts = ", ".join(f"{count:,} by {kind}" for kind, count in evaluation.queries.items() if count)
    print(
        f"{evaluation.build}: {sum(evaluation.queries.values()):,} queries ({counts}), "
        f"{evaluation.judged:,} judgements; (from-to): 95 % of resampled queries"
    )
    if evaluation.absent:
        names = [f"{name} ({reason})" for name, reason in evaluation.absent.items()]
        more = f" and {len(names) - _NAMED:,} more, see --json" if len(names) > _NAMED else ""
        single = len(names) == 1
        print(
            f"{len(names):,} judged product{'' if single else 's'} cannot be found, and count{'s' if single else ''} "
            f"as not found: {', '.join(names[:_NAMED])}{more}"
        )
