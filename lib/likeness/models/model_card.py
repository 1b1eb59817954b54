"""Cards: what a version of a model is, what it was made from, and what it is worth. Data only."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from likeness.storage.artifact import File, Frozen


class Metric(Frozen):
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


Measured = Mapping[str, Mapping[str, Metric]]
"""Figures by name, by the evaluation set (`NAME@VERSION`) that they were measured on."""


class ModelCard(Frozen):
    """One version of a model.

    `metrics` are those on the evaluation set `evaluation` (`NAME@VERSION`), the first of which a promotion goes by;
    `chosen` says what cross-validation gave for each candidate. `temperature` divides class scores before they become
    probabilities; it is in the weights already. `frozen`: only what is on top of `space` was trained.
    """

    name: str
    version: str
    task: str
    layer: str
    space: str
    parent: str
    frozen: bool
    classes: tuple[str, ...]
    snapshots: Mapping[str, int]
    photos: int
    evaluation: str
    metrics: Mapping[str, Metric]
    chosen: tuple[Mapping[str, Any], ...]
    temperature: float
    seed: int
    settings: Mapping[str, Any]
    licence: str
    made: datetime.datetime
    run_id: str
    weights: File

    @property
    def main(self) -> str:
        """The metric that a promotion goes by."""
        return next(iter(self.metrics), "")


class Evaluation(Frozen):
    """What a version is worth on another evaluation set than that of its card."""

    evaluation: str
    metrics: Mapping[str, Metric]
    made: datetime.datetime
    run_id: str


class Promotion(Frozen):
    """A version that was put in service; `reason` is why a gate was overruled."""

    version: str
    when: datetime.datetime
    reason: str = ""


class Promotions(Frozen):
    """The content of CURRENT, newest first."""

    promotions: Sequence[Promotion]


def worse(before: ModelCard, old: Measured, after: ModelCard, new: Measured) -> str:
    """Why a version should not take the place of another, by what both were measured on; empty if it may."""
    both = sorted(old.keys() & new.keys())
    if not both:
        return (
            f"it was measured on {', '.join(new) or 'nothing'}, the one in service ({before.version}) on "
            f"{', '.join(old) or 'nothing'}; measure that one as well: ./spark-submit.sh evaluate "
            f"--model {before.name} --version {before.version} --on {after.evaluation}"
        )
    on = after.evaluation if after.evaluation in both else both[-1]
    name = before.main
    if name not in new[on]:
        return f"it has no {name}, which the one in service ({before.version}) has"
    one, other = old[on][name].value, new[on][name].value
    if other >= one:
        return ""
    return f"its {name} on {on} is {other:.4f}, that in service ({before.version}) has {one:.4f}"
