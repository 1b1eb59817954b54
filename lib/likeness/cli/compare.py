"""`likeness compare`: feature spaces side by side.   [typer]"""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.cli.common import AsJson, interval, show_json, show_table, with_settings
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.index.builds import Builds

if TYPE_CHECKING:
    from likeness.evaluation.compare_spaces import Comparison


@with_settings
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
    if as_json:
        show_json(dataclasses.asdict(comparison))
    else:
        _show(comparison)


def _show(comparison: "Comparison") -> None:
    ks = list(comparison.spaces[0].metrics[0].precision)
    rows = [
        (one.space, result.metric, *(interval(vars(result.precision[k])) for k in ks), f"{result.ms:.2f}")
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
        overlap = ", ".join(f"@{k} {interval(vars(figure))}" for k, figure in comparison.overlap.items())
        print(f"overlap of their nearest neighbours by cosine: {overlap}")
    drawn = f" drawn from at most {comparison.of:,}" if comparison.photos < comparison.of else ""
    print(
        f"{comparison.queries:,} of {comparison.photos:,} photos{drawn}, shown and with a vector in "
        f"{'both spaces' if len(comparison.spaces) > 1 else 'the space'}, searched the others; other photos of the "
        "same product do not count as answers; hamming: by its bits alone; (from-to): 95 % of resampled queries"
    )
