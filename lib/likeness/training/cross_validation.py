"""Choosing by cross-validation: candidates in, the settings that are best on photos not learned from out.   [torch]"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from likeness.core.settings import Train
from likeness.training.experiment import Experiment
from likeness.training.progress_log import ProgressLogger
from likeness.training.trainer import Trainer


@dataclass(frozen=True)
class Selection:
    """How to train: settings, epochs and the temperature of what comes of it; `told` of each candidate that was tried.

    The learning rate is made for `how.epochs`; training ends after `epochs` of them.
    """

    how: Train
    epochs: int
    temperature: float = 1.0
    told: tuple[Mapping[str, Any], ...] = ()


def cross_validate(study: Experiment, telling: ProgressLogger) -> Selection:
    """Tries each candidate on all folds but one, for every fold; the same photos of a product are in one fold."""
    rows, folds = study.data.rows, study.how.folds
    part = (study.data.places[rows] * folds).astype(int)
    best, told = Selection(study.how, study.how.epochs), list[Mapping[str, Any]]()
    for candidate in study.how.candidates or study.task.candidates:
        how = study.how.model_copy(update={**candidate})
        curves, seen = [], []
        for fold in range(folds):
            inside, outside = rows[part == fold], rows[part != fold]
            if not len(inside) or not len(outside):
                continue
            learner, lesson = study.lesson(how, outside)
            judge = study.judge(lesson, outside, inside)
            course = Trainer(how, study.ranks).fit(learner, lesson, how.epochs, how.seed, judge)
            curves.append([epoch.judged for epoch in course.epochs])
            seen.append(study.outputs(learner, lesson.feed, inside))
        mean = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
        epochs, value = int(mean.argmax()) + 1, float(mean.max())
        spread = float(np.std([curve[epochs - 1] for curve in curves]) / max(1, len(curves) - 1) ** 0.5)
        telling.say(f"{dict(candidate) or 'as given'}: {value:.4f} by {folds} folds, best after {epochs} epochs")
        if not told or value > max(one["value"] for one in told):
            outputs, truth = (np.concatenate(one) for one in zip(*seen, strict=True))
            best = Selection(how, epochs, study.task.temperature(outputs, truth))
        told.append({"settings": dict(candidate), "value": value, "error": spread, "epochs": epochs})
    return replace(best, told=tuple(told))
