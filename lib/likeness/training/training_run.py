"""One training: a plan in, a version of a model out; run by one process, or by several together.   [torch]"""

import dataclasses
import datetime
import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from likeness.core.malloc import keep_freed_memory
from likeness.core.progress import Reporter
from likeness.evaluation.model_metrics import as_metrics
from likeness.models.model_card import ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.models.recipe import Recipe
from likeness.models.training_report import CurvePoint, CurveRow, TrainingReport
from likeness.storage.artifact import File
from likeness.training.checkpoints import Checkpoint
from likeness.training.cross_validation import Selection, cross_validate
from likeness.training.distributed import join_workers
from likeness.training.experiment import Experiment
from likeness.training.history import History
from likeness.training.inputs import Inputs
from likeness.training.network import Network
from likeness.training.plan import HELD_OUT_SHARE, TrainingPlan
from likeness.training.prepare import prepare
from likeness.training.progress_log import ProgressLogger
from likeness.training.tasks.task import Predictions
from likeness.training.trainer import Trainer


@dataclass(frozen=True)
class _TrainedNetwork:
    """A trained network, its history, the settings that were selected, and its inputs."""

    network: Network
    history: History
    selection: Selection
    inputs: Inputs


def train_model(plan: TrainingPlan) -> ModelCard | None:
    """Trains and measures a network, and writes it as a version; returns the card in the first process, else None.

    Raises:
        DataError: there are too few photos, or a vector or the loss is not finite.
        UsageError: the settings do not fit the network.
        GateError: too many photos cannot be decoded.
    """
    with keep_freed_memory(), join_workers() as workers:
        if workers.world_size > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // workers.world_size))
        reporter = Reporter() if workers.is_first else None
        log = ProgressLogger(plan.settings.train, f"{plan.name}-{plan.run_id}", reporter)
        experiment = prepare(plan, workers, log)
        trained = _train(experiment, log)
        curve = _learning_curve(experiment, trained, log) if plan.request.curve else []
        return _write_version(experiment, trained, curve) if workers.is_first else None


def _train(experiment: Experiment, log: ProgressLogger) -> _TrainedNetwork:
    """Selects settings by cross-validation if the plan says so, and trains on all photos."""
    plan, settings, workers = experiment.plan, experiment.settings, experiment.workers
    rows, selection = experiment.data.train_rows, Selection(settings, settings.epochs)
    validation_rows = rows[:0]
    if settings.folds > 1 and plan.head_only:
        selection = cross_validate(experiment, log)
    elif settings.folds:
        held_out = experiment.data.fold_positions[rows] < HELD_OUT_SHARE
        rows, validation_rows = rows[~held_out], rows[held_out]
    checkpoint = Checkpoint(plan.file(plan.identity, "safetensors"), settings.checkpoint_s, plan.identity)
    network, dataset = experiment.build(selection.settings, rows)
    validate = experiment.validator(dataset, rows, validation_rows) if len(validation_rows) else None
    with log.epochs(selection.epochs) as on_epoch:
        trainer = Trainer(selection.settings, workers, checkpoint, on_epoch)
        history = trainer.fit(network, dataset, selection.settings.epochs, settings.seed, validate, selection.epochs)
    if len(validation_rows):
        outputs, targets = experiment.outputs(network, dataset.inputs, validation_rows)
        selection = dataclasses.replace(selection, temperature=experiment.task.temperature(outputs, targets))
    if workers.is_first:
        checkpoint.clear()
    return _TrainedNetwork(network, history, selection, dataset.inputs)


def _learning_curve(experiment: Experiment, trained: _TrainedNetwork, log: ProgressLogger) -> list[CurveRow]:
    """Trains on fewer photos, and from random weights if the plan says so; measures metric and time of each."""
    plan, total = experiment.plan, experiment.data.train_count
    ways = {"with transfer": experiment}
    if plan.request.against_scratch:
        ways["from scratch"] = prepare(plan.from_scratch(), experiment.workers, log)
    rows = []
    for count in sorted({min(count or total, total) for count in plan.request.curve}):
        points = [_curve_point(name, way, trained, count) for name, way in ways.items()]
        texts = ", ".join(f"{point.name} {point.value:.3f} in {point.seconds:.1f} s" for point in points)
        log.info(f"{count:,} photos: {texts}")
        rows.append(CurveRow(photos=count, ways=points))
    return rows


def _curve_point(name: str, experiment: Experiment, trained: _TrainedNetwork, count: int) -> CurvePoint:
    """Trains on so many photos, drawn at random, and measures on the evaluation set."""
    settings, epochs = trained.selection.settings, len(trained.history.epochs)
    rows = np.random.default_rng(settings.seed).permutation(experiment.data.train_rows)[:count]
    network, dataset = experiment.build(settings, rows)
    started = time.monotonic()
    Trainer(settings, experiment.workers).fit(network, dataset, settings.epochs, settings.seed, stop_after=epochs)
    seconds = time.monotonic() - started
    predictions = experiment.predictions(network, dataset.inputs, experiment.data.evaluation_rows, rows)
    return CurvePoint(name=name, value=experiment.task.main_metric(predictions), seconds=seconds)


def _write_version(experiment: Experiment, trained: _TrainedNetwork, curve: list[CurveRow]) -> ModelCard:
    """Measures the network on the evaluation set, and writes weights, report and card."""
    plan, task, data = experiment.plan, experiment.task, experiment.data
    temperature = trained.selection.temperature
    predictions = experiment.predictions(trained.network, trained.inputs, data.evaluation_rows, data.train_rows)
    errors = task.error_analysis(predictions, temperature, [data.image_ids[row] for row in data.evaluation_rows])
    report = TrainingReport(
        epochs=trained.history.epochs,
        best=trained.history.best,
        baseline=as_metrics(experiment.baseline()),
        curve=curve,
        **(dict(errors) if errors else {}),
    )
    with tempfile.TemporaryDirectory(prefix="likeness-model-") as folder:
        path = Path(folder, "model.safetensors")
        recipe = trained.network.save(path, task.keeps_head, tuple(task.classes), temperature)
        card = _card(experiment, trained.selection, predictions, recipe, path)
        ModelRegistry(plan.settings.root).write(card, path, report)
    return card


def _card(
    experiment: Experiment, selection: Selection, predictions: Predictions, recipe: Recipe, weights: Path
) -> ModelCard:
    plan, space = experiment.plan, experiment.space
    return ModelCard(
        name=plan.name,
        version=plan.run_id,
        task=plan.request.task,
        layer=recipe.head.layer if recipe.head else recipe.parts[-1].layer,
        space=space.name if plan.request.scratch else space.id,
        parent=plan.request.teacher or space.id,
        frozen=plan.head_only,
        classes=tuple(experiment.task.classes),
        snapshots=plan.snapshots,
        photos=experiment.data.train_count,
        evaluation=plan.evaluation_set,
        metrics=as_metrics(experiment.task.metrics(predictions)),
        candidates=selection.candidates,
        temperature=selection.temperature,
        seed=experiment.settings.seed,
        settings=selection.settings.model_dump(),
        licence=recipe.licence,
        created=datetime.datetime.now(datetime.UTC),
        run_id=plan.run_id,
        weights=_file(weights),
    )


def _file(path: Path) -> File:
    with path.open("rb") as file:
        return File(name=path.name, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
