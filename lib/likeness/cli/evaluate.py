"""`likeness evaluate`, `compare`, `robustness`: how good are builds, networks and feature spaces.   [typer]"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from likeness import storage
from likeness.cli.common import AsJson, interval, show_result, show_table, with_root, with_settings
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.images.query_views import QueryView
from likeness.index.builds import Builds

if TYPE_CHECKING:
    from likeness.evaluation.compare_spaces import Comparison
    from likeness.evaluation.judged_search import Evaluation
    from likeness.evaluation.robustness import Robustness
    from likeness.models.backbones.spec import Published
    from likeness.models.imagenet_classifier import ClassificationResult

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
        storage.check_root(settings.root)
        from likeness.evaluation.judged_search import evaluate as evaluate_build

        evaluation = evaluate_build(settings, build, judgements, k)
        show_result(evaluation, as_json, lambda: _show_evaluation(evaluation))
    elif labels:
        from likeness.models.imagenet_classifier import ImagenetClassifier

        classifier = ImagenetClassifier(settings, backbone, os.cpu_count() or 1)
        space, result = classifier.space, classifier.evaluate(labels)
        value = {"space": space.id, **dataclasses.asdict(result), "published": space.spec.published}
        show_result(value, as_json, lambda: _show_classes(space.id, result, space.spec.published))


def _show_evaluation(evaluation: "Evaluation") -> None:
    rows = [(category, *map(interval, figures.values())) for category, figures in evaluation.figures.items()]
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


def _show_classes(space: str, result: "ClassificationResult", published: "Published | None") -> None:
    percents = (published.top1, published.top5) if published else (None, None)
    rows = [
        (name, interval(figure), percent and f"{percent / 100:.4f}")
        for name, figure, percent in zip(("top-1", "top-5"), (result.top1, result.top5), percents, strict=True)
    ]
    show_table(("", "here", "published"), rows)
    source = f"; published for ImageNet's validation photos: {published.source}" if published else ""
    print(f"{space}: {result.photos:,} photos; (from-to): 95 %, by Wilson{source}")
    for path, reason in list(result.failures.items())[:_NAMED]:
        print(f"left out: {path}: {reason}")


@with_root
def compare(
    settings: Settings,
    space: Annotated[
        list[str] | None,
        typer.Option(help="feature space, as alexnet.fc6@1f3a9c02; once or twice (default: the one in service)"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare feature spaces on the same photos.

    Category precision of neighbours, time and memory of one space or two, and the overlap of their neighbours.
    """
    from likeness.evaluation import compare_spaces

    spaces = list(dict.fromkeys(space or [Builds.open(settings).find().space]))
    if len(spaces) > 2:
        raise UsageError(f"--space was given {len(spaces)} times; name two to compare")
    comparison = compare_spaces.compare(settings, spaces)
    show_result(comparison, as_json, lambda: _show_comparison(comparison))


def _show_comparison(comparison: "Comparison") -> None:
    ks = list(comparison.spaces[0].metrics[0].precision)
    rows = [
        (one.space, result.metric, *(interval(result.precision[k]) for k in ks), f"{result.ms:.2f}")
        for one in comparison.spaces
        for result in one.metrics
    ]
    show_table(("space", "metric", *(f"P@{k}" for k in ks), "ms a query"), rows)
    for one in comparison.spaces:
        seconds = one.seconds_per_photo
        speed = f"{seconds:.4f} s a photo (run {one.run_id})" if seconds else "never measured here"
        sizes = ", ".join(f"{kind} {count:,}" for kind, count in one.bytes_per_vector.items())
        print(f"{one.space}, {one.dim}-d: extraction {speed}; bytes a vector in memory: {sizes}")
    if comparison.overlap:
        overlap = ", ".join(f"@{k} {interval(figure)}" for k, figure in comparison.overlap.items())
        print(f"overlap of their nearest neighbours by cosine: {overlap}")
    drawn = f" drawn from at most {comparison.of:,}" if comparison.photos < comparison.of else ""
    print(
        f"{comparison.queries:,} of {comparison.photos:,} photos{drawn}, shown and with a vector in "
        f"{'both spaces' if len(comparison.spaces) > 1 else 'the space'}, searched the others; other photos of the "
        "same product do not count as answers; hamming: by its bits alone; (from-to): 95 % of resampled queries"
    )


@with_root
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
    show_result(result, as_json, lambda: _show_robustness(result))


def _show_robustness(result: "Robustness") -> None:
    names = ["by itself", *(" + ".join(one.looks) for one in result.views[1:])]
    changes = result.views[0].recall
    rows = [(change, *(interval(one.recall[change]) for one in result.views)) for change in changes]
    cost = [f"{one.pictures}, {one.ms:.0f} ms" for one in result.views]
    show_table(("photo", *names), [*rows, ("pictures, time of a query", *cost)])
    print(
        f"{result.build}: recall@1 among {result.images:,} images, of {result.photos:,} photos of its own, changed; "
        "(from-to): 95 %, by Wilson; looks: likeness search --look NAME, or looks=NAME of the service"
    )
