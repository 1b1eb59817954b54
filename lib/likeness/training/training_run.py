"""One training: a job in, a version of a model out. Run by one process, or by several together.   [torch]"""

import dataclasses
import datetime
import hashlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likeness.core.malloc import kept
from likeness.core.progress import Reporter
from likeness.evaluation.model_metrics import as_metrics
from likeness.models.model_card import ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.storage.artifact import File
from likeness.training.checkpoints import Checkpoint
from likeness.training.cross_validation import Selection, cross_validate
from likeness.training.distributed import joined
from likeness.training.experiment import Experiment
from likeness.training.history import History
from likeness.training.inputs import Inputs
from likeness.training.job import ASIDE, Job
from likeness.training.network import Network
from likeness.training.progress_log import ProgressLogger
from likeness.training.trainer import Trainer


@dataclass(frozen=True)
class _Learned:
    """A network, how it was trained, and what it is fed with."""

    learner: Network
    course: History
    choice: Selection
    feed: Inputs


def learn(job: Job) -> ModelCard | None:
    """Trains, measures and writes a version; the card, in the first process, and None in the others.

    Raises:
        DataError: there is not enough to learn from, or what is learned is not finite.
        UsageError: the settings do not fit the network.
        GateError: too many photos cannot be decoded.
    """
    with kept(), joined() as ranks:
        if ranks.of > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // ranks.of))
        telling = ProgressLogger(job.settings.train, f"{job.name}-{job.run_id}", Reporter() if ranks.first else None)
        study = Experiment(job, ranks, telling)
        learned = _learned(study, telling)
        curve = _curve(study, learned.choice, len(learned.course.epochs), telling) if job.ask.curve else []
        return _written(study, learned, curve) if ranks.first else None


def _learned(study: Experiment, telling: ProgressLogger) -> _Learned:
    """Chooses by cross-validation, if so told, and trains on all that there is."""
    job, how, ranks = study.job, study.how, study.ranks
    rows, choice = study.data.rows, Selection(how, how.epochs)
    aside = rows[:0]
    if how.folds > 1 and not (how.unfreeze or job.ask.scratch):
        choice = cross_validate(study, telling)
    elif how.folds:
        inside = study.data.places[rows] < ASIDE
        rows, aside = rows[~inside], rows[inside]
    checkpoint = Checkpoint(job.file(job.identity, "safetensors"), how.checkpoint_s, job.identity)
    learner, lesson = study.lesson(choice.how, rows)
    judge = study.judge(lesson, rows, aside) if len(aside) else None
    with telling.epochs(choice.epochs) as tell:
        trainer = Trainer(choice.how, ranks, checkpoint, tell)
        course = trainer.fit(learner, lesson, choice.how.epochs, how.seed, judge, choice.epochs)
    if len(aside):
        temperature = study.task.temperature(*study.outputs(learner, lesson.feed, aside))
        choice = dataclasses.replace(choice, temperature=temperature)
    if ranks.first:
        checkpoint.clear()
    return _Learned(learner, course, choice, lesson.feed)


def _curve(study: Experiment, choice: Selection, epochs: int, telling: ProgressLogger) -> list[dict[str, Any]]:
    """What fewer photos would have given, and how long they took; without what the backbone knows, too."""
    job, all_of_them = study.job, study.data.learned
    ways = {"with transfer": study}
    if job.ask.against_scratch:
        ways["from scratch"] = Experiment(job.scratched(), study.ranks, telling)
    told = []
    for count in sorted({min(count or all_of_them, all_of_them) for count in job.ask.curve}):
        found = [{"name": name, **_of(way, choice, count, epochs)} for name, way in ways.items()]
        each = ", ".join(f"{one['name']} {one['value']:.3f} in {one['seconds']:.1f} s" for one in found)
        telling.say(f"{count:,} photos: {each}")
        told.append({"photos": count, "ways": found})
    return told


def _of(study: Experiment, choice: Selection, count: int, epochs: int) -> dict[str, float]:
    """What so many photos, drawn at random, give on the evaluation set."""
    how = choice.how
    rows = np.random.default_rng(how.seed).permutation(study.data.rows)[:count]
    learner, lesson = study.lesson(how, rows)
    begun = time.monotonic()
    Trainer(how, study.ranks).fit(learner, lesson, how.epochs, how.seed, until=epochs)
    seconds = time.monotonic() - begun
    found = study.found(learner, lesson.feed, study.data.asked, rows)
    return {"value": study.task.value(found), "seconds": seconds}


def _written(study: Experiment, learned: _Learned, curve: list[dict[str, Any]]) -> ModelCard:
    """Measures what was learned, and writes it as a version."""
    job, task, data = study.job, study.task, study.data
    temperature = learned.choice.temperature
    found = study.found(learned.learner, learned.feed, data.asked, data.rows)
    report = {
        "course": [dataclasses.asdict(epoch) for epoch in learned.course.epochs],
        "best": learned.course.best,
        "before": {name: vars(figure) for name, figure in study.before().items()},
        "curve": curve,
        **task.closer(found, temperature, [data.image_ids[row] for row in data.asked.tolist()]),
    }
    with tempfile.TemporaryDirectory(prefix="likeness-model-") as scratch:
        path = Path(scratch, "model.safetensors")
        recipe = learned.learner.write(path, task.topped, tuple(task.classes), temperature)
        card = ModelCard(
            name=job.name,
            version=job.run_id,
            task=job.ask.task,
            layer=recipe.top.layer if recipe.top else recipe.parts[-1].layer,
            space=study.space.name if job.ask.scratch else study.space.id,
            parent=job.ask.teacher or study.space.id,
            frozen=not (study.how.unfreeze or job.ask.scratch),
            classes=tuple(task.classes),
            snapshots=job.snapshots,
            photos=data.learned,
            evaluation=job.held,
            metrics=as_metrics(task.figures(found)),
            chosen=learned.choice.told,
            temperature=temperature,
            seed=study.how.seed,
            settings=learned.choice.how.model_dump(),
            licence=recipe.licence,
            made=datetime.datetime.now(datetime.UTC),
            run_id=job.run_id,
            weights=_file(path),
        )
        ModelRegistry(job.settings.root).write(card, path, {"report.json": json.dumps(report).encode()})
    return card


def _file(path: Path) -> File:
    with path.open("rb") as file:
        return File(name=path.name, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
