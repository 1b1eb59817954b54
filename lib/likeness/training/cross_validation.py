"""Cross-validation: candidate settings in, those with the best metric on held-out folds out.   [torch]"""

from dataclasses import dataclass, replace

import numpy as np

from likeness.core.settings import Train
from likeness.models.model_card import Candidate, TrainSettings
from likeness.training.experiment import Experiment
from likeness.training.history import History
from likeness.training.progress_log import ProgressLogger
from likeness.training.trainer import Trainer


@dataclass(frozen=True)
class Selection:
    """The settings to train with, the epochs, the temperature of the outputs, and the candidates that were tried.

    The learning rate schedule is made for `settings.epochs`; the training stops after `epochs`.
    """

    settings: Train
    epochs: int
    temperature: float = 1.0
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class _FoldResult:
    """The history of a fold's training, and the outputs and targets of its validation photos."""

    history: History
    outputs: np.ndarray
    targets: np.ndarray


def cross_validate(experiment: Experiment, log: ProgressLogger) -> Selection:
    """Trains each candidate once for every fold, on the other folds; photos of a product are in one fold."""
    settings = experiment.settings
    best, tried = Selection(settings, settings.epochs), list[Candidate]()
    for overrides in settings.candidates or experiment.task.candidates:
        candidate_settings = settings.model_copy(update={**overrides})
        folds = _train_folds(experiment, candidate_settings)
        candidate = _summarise(overrides, folds)
        log.info(
            f"{dict(overrides) or 'unchanged settings'}: {candidate.value:.4f} by {settings.folds} folds, "
            f"best after {candidate.epochs} epochs"
        )
        if not tried or candidate.value > max(other.value for other in tried):
            outputs = np.concatenate([fold.outputs for fold in folds])
            targets = np.concatenate([fold.targets for fold in folds])
            temperature = experiment.task.temperature(outputs, targets)
            best = Selection(candidate_settings, candidate.epochs, temperature)
        tried.append(candidate)
    return replace(best, candidates=tuple(tried))


def _train_folds(experiment: Experiment, settings: Train) -> list[_FoldResult]:
    rows, folds = experiment.data.train_rows, experiment.settings.folds
    fold_of = (experiment.data.fold_positions[rows] * folds).astype(int)
    results = []
    for fold in range(folds):
        validation_rows, train_rows = rows[fold_of == fold], rows[fold_of != fold]
        if not len(validation_rows) or not len(train_rows):
            continue
        network, dataset = experiment.build(settings, train_rows)
        validate = experiment.validator(dataset, train_rows, validation_rows)
        history = Trainer(settings, experiment.workers).fit(network, dataset, settings.epochs, settings.seed, validate)
        results.append(_FoldResult(history, *experiment.outputs(network, dataset.inputs, validation_rows)))
    return results


def _summarise(overrides: TrainSettings, folds: list[_FoldResult]) -> Candidate:
    """The mean metric at the best common epoch, and its standard error over the folds."""
    curves = [[epoch.validation for epoch in fold.history.epochs] for fold in folds]
    mean = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
    epochs = int(mean.argmax()) + 1
    error = float(np.std([curve[epochs - 1] for curve in curves]) / max(1, len(curves) - 1) ** 0.5)
    return Candidate(settings=dict(overrides), value=float(mean.max()), error=error, epochs=epochs)
