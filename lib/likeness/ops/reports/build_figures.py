"""Figures of a build for a report: its manifest in, rows and plots of the page out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from likeness.evaluation.compare_spaces import Comparison
from likeness.index.manifest import Manifest, Shard

_CATEGORIES, _SHARDS = 40, 60
"""Categories and shards on the page, at most."""


@dataclass(frozen=True)
class CategoryBar:
    """A category: its vectors, and these as a percentage of the largest category's."""

    name: str
    vectors: int
    share: float


@dataclass(frozen=True)
class LargestCategories:
    """The largest categories; `more` others have `more_vectors` vectors."""

    top: list[CategoryBar]
    more: int
    more_vectors: int


@dataclass(frozen=True)
class PlotPoint:
    """A point of a plot; `x` and `y` are percentages of its width and height, from the lower left corner."""

    x: float
    y: float
    label: str
    chosen: bool


@dataclass(frozen=True)
class RecallCurve:
    """Recall against milliseconds a query of one shard; `least` is the lowest recall, `most` the longest time."""

    shard: Shard
    chosen: str
    points: list[PlotPoint]
    least: float
    most: float


@dataclass(frozen=True)
class MetricLine:
    """P@k by one metric, a cell for each k; `share` is the last of them as a percentage."""

    metric: str
    cells: list[str]
    share: float


@dataclass(frozen=True)
class NeighbourPrecision:
    """How often neighbours have the category of the query; `missing` is the reason if it was not measured."""

    rows: Sequence[MetricLine] = ()
    ks: Sequence[int] = ()
    comparison: Comparison | None = None
    missing: str = ""


def largest_categories(manifest: Manifest) -> LargestCategories:
    """The 40 largest categories, and the sum of the others."""
    ranked = sorted(manifest.categories().items(), key=lambda item: (-item[1], item[0]))
    top, rest = ranked[:_CATEGORIES], ranked[_CATEGORIES:]
    bars = [CategoryBar(name, count, 100 * count / max(1, top[0][1])) for name, count in top]
    return LargestCategories(bars, len(rest), sum(count for _, count in rest))


def worst_shard(manifest: Manifest) -> Shard:
    """The shard of the lowest recall."""
    return min(manifest.shards, key=lambda shard: (shard.lowest, shard.number))


def shards(manifest: Manifest) -> Sequence[Shard]:
    """All shards by number; of more than 60, those of the lowest recall, the worst first."""
    if len(manifest.shards) <= _SHARDS:
        return sorted(manifest.shards, key=lambda shard: shard.number)
    return sorted(manifest.shards, key=lambda shard: (shard.lowest, shard.number))[:_SHARDS]


def recall_curve(manifest: Manifest) -> RecallCurve | None:
    """The trial of index kinds and parameters of the largest shard that had one; None if all are searched exactly."""
    tried = [shard for shard in manifest.shards if shard.curve]
    if not tried:
        return None
    shard = max(tried, key=lambda one: (one.vectors, -one.number))
    least, most = min(point.recall for point in shard.curve), max(point.ms for point in shard.curve) or 1
    span = (1 - least) or 1
    points = [
        PlotPoint(
            x=100 * point.ms / most,
            y=100 * (point.recall - least) / span,
            label=f"{point.kind} {_listed(point.index_params)}: recall {point.recall:.4f}, {point.ms:.3f} ms a query",
            chosen=(point.kind, point.index_params) == (shard.kind, shard.index_params),
        )
        for point in shard.curve
    ]
    return RecallCurve(shard, _listed(shard.index_params), points, least, most)


def _listed(parameters: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def neighbour_precision(comparison: Comparison) -> NeighbourPrecision:
    """P@k of the one space of a comparison, by metric, each with its interval."""
    (space,) = comparison.spaces
    rows = [
        MetricLine(
            result.metric,
            [f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})" for figure in result.precision.values()],
            100 * list(result.precision.values())[-1].value,
        )
        for result in space.metrics
    ]
    return NeighbourPrecision(rows, list(space.metrics[0].precision), comparison)
