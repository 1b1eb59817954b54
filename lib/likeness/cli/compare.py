"""`likeness compare`: feature spaces side by side.   [typer]"""

from typing import Annotated, Any

import typer

from likeness.cli.common import AsJson, Assignments, Config, Root, interval, load, show_json, show_table
from likeness.core.errors import UsageError
from likeness.index.builds import Builds


def compare(
    space: Annotated[
        list[str] | None,
        typer.Option(help="feature space, as alexnet.fc6@1f3a9c02; once or twice (default: the one in service)"),
    ] = None,
    root: Root = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Neighbours, agreement with categories, time and memory of one feature space, or of two on the same photos."""
    from likeness.evaluation import compare_spaces

    settings = load(root, config, assignments)
    spaces = list(dict.fromkeys(space or [Builds(settings.root).find().space]))
    if len(spaces) > 2:
        raise UsageError(f"--space was given {len(spaces)} times; name two to compare")
    told = compare_spaces.compare(settings, spaces).plain()
    if as_json:
        show_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    ks = list(told["spaces"][0]["metrics"][0]["precision"])
    rows = [
        (one["space"], metric["metric"], *(interval(metric["precision"][k]) for k in ks), f"{metric['ms']:.2f}")
        for one in told["spaces"]
        for metric in one["metrics"]
    ]
    show_table(("space", "metric", *(f"P@{k}" for k in ks), "ms a query"), rows)
    for one in told["spaces"]:
        seconds, memory = one["seconds_per_photo"], one["bytes_per_vector"]
        took = f"{seconds:.4f} s a photo (run {one['run_id']})" if seconds else "never measured here"
        each = ", ".join(f"{kind} {count:,}" for kind, count in memory.items())
        print(f"{one['space']}, {one['dim']}-d: extraction {took}; bytes a vector in memory: {each}")
    if told["overlap"]:
        shared = ", ".join(f"@{k} {interval(figure)}" for k, figure in told["overlap"].items())
        print(f"overlap of their nearest neighbours by cosine: {shared}")
    drawn = f" drawn from at most {told['of']:,}" if told["photos"] < told["of"] else ""
    print(
        f"{told['queries']:,} of {told['photos']:,} photos{drawn}, which are shown and have a vector in "
        f"{'both spaces' if len(told['spaces']) > 1 else 'the space'}, asked the others; not counted as answers: other "
        "photos of the same product; hamming: by its bits alone; (from-to): 95 % of resampled queries"
    )
