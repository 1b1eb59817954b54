"""Model cards: what a version of a model is, what it was trained on, and its metrics. Data only."""

import datetime
from collections.abc import Mapping, Sequence

from pydantic import ConfigDict, Field, JsonValue

from likeness.storage.artifact import File, FrozenModel


class _Record(FrozenModel):
    """A record whose keys on disk may be older than the names of its fields."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class Metric(FrozenModel):
    """A metric with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


MetricsByEvaluationSet = Mapping[str, Mapping[str, Metric]]
"""Metrics by name, by evaluation set (`NAME@VERSION`)."""
TrainSettings = Mapping[str, JsonValue]
"""Settings of `train` by name; all of them, or those that override others."""


class Candidate(FrozenModel):
    """Settings that cross-validation tried: mean metric over the folds, its standard error, and the best epoch."""

    settings: TrainSettings
    value: float
    error: float
    epochs: int


class ModelCard(_Record):
    """One version of a model.

    `metrics` are those on the evaluation set `evaluation` (`NAME@VERSION`); the first one decides on a promotion.
    `candidates` are the settings that cross-validation chose from. `temperature` calibrates the logits; the weights
    are divided by it already. `frozen`: only a head on the vectors of `space` was trained.
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
    candidates: tuple[Candidate, ...] = Field(alias="chosen")
    temperature: float
    seed: int
    settings: TrainSettings
    licence: str
    created: datetime.datetime = Field(alias="made")
    run_id: str
    weights: File

    @property
    def main_metric(self) -> str:
        """The name of the metric that decides on a promotion."""
        return next(iter(self.metrics), "")


class Evaluation(_Record):
    """The metrics of a version on a further evaluation set."""

    evaluation: str
    metrics: Mapping[str, Metric]
    created: datetime.datetime = Field(alias="made")
    run_id: str


class Promotion(FrozenModel):
    """A version that was put in service, and when; `reason` says why a gate was overruled."""

    version: str
    when: datetime.datetime
    reason: str = ""


class Promotions(FrozenModel):
    """The content of CURRENT: promotions, newest first."""

    promotions: Sequence[Promotion]


def promotion_refusal(
    current: ModelCard, current_metrics: MetricsByEvaluationSet, new: ModelCard, new_metrics: MetricsByEvaluationSet
) -> str:
    """Says why a new version must not replace the current one, by their metrics; empty if it may."""
    common = sorted(current_metrics.keys() & new_metrics.keys())
    if not common:
        return (
            f"it was measured on {', '.join(new_metrics) or 'nothing'}, the one in service ({current.version}) on "
            f"{', '.join(current_metrics) or 'nothing'}; measure that one as well: ./spark-submit.sh evaluate "
            f"--model {current.name} --version {current.version} --on {new.evaluation}"
        )
    on = new.evaluation if new.evaluation in common else common[-1]
    name = current.main_metric
    if name not in new_metrics[on]:
        return f"it has no {name}, which the one in service ({current.version}) has"
    old_value, new_value = current_metrics[on][name].value, new_metrics[on][name].value
    if new_value >= old_value:
        return ""
    return f"its {name} on {on} is {new_value:.4f}, that in service ({current.version}) has {old_value:.4f}"
