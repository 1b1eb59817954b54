"""One training: settings in, a version of a model out. Run by one process, or by several together.   [torch]"""

import dataclasses
import datetime
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likeness import uris
from likeness.backbones import Space, weightless
from likeness.errors import GateError, UsageError
from likeness.evaluation import Figure, softmax
from likeness.held_out import EvaluationSets, Shown, apart, listed
from likeness.manifest import File
from likeness.models import Card, Metric, Models, space_of
from likeness.progress import Reporter
from likeness.settings import Settings, Train
from likeness.tables import FEATURES, IMAGES, LISTINGS
from likeness.training import measures
from likeness.training.ask import Ask
from likeness.training.checkpoints import Checkpoint
from likeness.training.data import Data, gathered
from likeness.training.feeds import Feed, Known, Photos
from likeness.training.fit import Course, Lesson, Trainer, answers
from likeness.training.learner import ALL, Learner
from likeness.training.pictures import Pictures
from likeness.training.ranks import Ranks, joined
from likeness.training.tasks import TASKS, Category, Distil, Found, Task
from likeness.training.telling import Telling
from likeness.warehouse import Warehouse

DISTIL = "distil"
_ASIDE = 0.1
"""The share that is held aside where there is no cross-validation."""
_MISTAKES = 24


@dataclass(frozen=True)
class Job:
    """What is to be learned; everything that the processes must agree on."""

    settings: Settings
    ask: Ask
    run_id: str
    held: str
    snapshots: Mapping[str, int]
    until: int = 0
    """Epochs after which it ends although the learning rate is made for `train.epochs`; 0 for those."""

    @property
    def name(self) -> str:
        """Of the model."""
        return self.settings.train.name or self.ask.task

    def scratched(self) -> "Job":
        """The same without what the backbone knows."""
        return dataclasses.replace(self, ask=dataclasses.replace(self.ask, scratch=True))

    @property
    def identity(self) -> str:
        """What a checkpoint must be of, to be taken up."""
        told = [self.settings.train.model_dump(), self.settings.extract.space, self.held]
        return hashlib.sha256(
            json.dumps([told, dataclasses.asdict(self.ask), sorted(self.snapshots.items())]).encode()
        ).hexdigest()


def plan(settings: Settings, ask: Ask, run_id: str) -> Job:
    """Looks at what there is to learn; freezes an evaluation set, a tenth of the products, if the root has none.

    Raises:
        UsageError: the task is none, or there is nothing to learn from.
    """
    task, teacher = ask.task, ask.teacher
    if task not in (*TASKS, DISTIL):
        raise UsageError(f"--task {task!r} is none; there are: {', '.join((*TASKS, DISTIL))}")
    if (task == DISTIL) != bool(teacher):
        told = "wants --teacher, a space whose vectors are learned" if task == DISTIL else "has no teacher"
        raise UsageError(f"--task {task} {told}; write for example --task distil --teacher efficientnet_lite0.pool")
    warehouse, sets = Warehouse(settings), EvaluationSets(settings.root)
    snapshots = {table.name: warehouse.snapshot(table) for table in (IMAGES, LISTINGS, FEATURES)}
    if snapshots[LISTINGS.name] is None:
        raise UsageError(f"root {settings.root} has no listings to learn from; run ./spark-submit.sh nightly first")
    held = sets.find(settings.train.evaluation) or sets.freeze(settings, "default", "", _ASIDE)
    known = {name: number for name, number in snapshots.items() if number is not None}
    asked = dataclasses.replace(ask, scratch=ask.scratch or task == DISTIL)
    return Job(settings, asked, run_id, held.id, known)


def learn(job: Job) -> Card | None:
    """Trains, measures and writes a version; the card, in the first process, and None in the others.

    Raises:
        DataError: there is not enough to learn from, or what is learned is not finite.
        UsageError: the settings do not fit the network.
        GateError: too many photos cannot be decoded.
    """
    with joined() as ranks:
        session = Session(job, ranks)
        learner, course = session.learned()
        curve = session.curve(course) if job.ask.curve else []
        return session.written(learner, course, curve) if ranks.first else None


class Session:
    """One training on one process."""

    def __init__(self, job: Job, ranks: Ranks) -> None:
        self._job, self._ranks = job, ranks
        self._settings = settings = job.settings
        self._how = settings.train
        self.space = _space(job)
        held = EvaluationSets(settings.root).find(job.held)
        assert held
        if ranks.of > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // ranks.of))
        warehouse = Warehouse(settings)
        photos = listed(warehouse, job.snapshots[LISTINGS.name])
        free = apart(photos, held)
        asked = {key: photos.get(key, one) for key, one in held.photos.items()}
        self.task, self.data = self._taken(warehouse, free, asked)
        self._pictures: Pictures | None = None
        self._chosen: list[dict[str, Any]] = []
        self._temperature = 1.0

    def learned(self) -> tuple[Learner, Course]:
        """Chooses by cross-validation, if so told, and trains on all that there is."""
        how, until = self._how, self._job.until or self._how.epochs
        name = f"{self._job.name}-{self._job.run_id}"
        self._tell = Telling(how, name, self.data.learned, Reporter() if self._ranks.first else None)
        self._tell.say(
            f"{self.data.learned:,} photos to learn from, {len(self.data.asked):,} of {self._job.held} to measure on"
        )
        rows, aside = self.data.rows, None
        if how.folds > 1 and not (how.unfreeze or self._job.ask.scratch):
            how, until = self._choose()
        elif how.folds:
            inside = self.data.places[rows] < _ASIDE
            rows, aside = rows[~inside], rows[inside]
        checkpoint = Checkpoint(
            uris.join(uris.canonical(self._settings.root), "training", f"{self._job.name}.safetensors"),
            how.checkpoint_s,
            self._job.identity,
        )
        learner, lesson = self._lesson(how, rows)
        judge = self._judge(lesson, rows, aside) if aside is not None and len(aside) else None
        trainer = Trainer(how, self._ranks, checkpoint, self._tell.epoch)
        course = trainer.fit(learner, lesson, how.epochs, how.seed, judge, until)
        if judge and aside is not None and isinstance(self.task, Category):
            found = answers(learner, lesson.feed, aside, self._ranks.device)
            self._temperature = measures.temperature(found, lesson.targets[torch.from_numpy(aside)].numpy())
        self._how = how
        if self._ranks.first:
            checkpoint.clear()
        return learner, course

    def curve(self, course: Course) -> list[dict[str, Any]]:
        """What fewer photos would have given, and how long they took; without what the backbone knows, too."""
        ways = {"with transfer": self}
        if self._job.ask.against_scratch:
            ways["from scratch"] = bare = Session(self._job.scratched(), self._ranks)
            bare._tell = self._tell
        told = []
        for count in sorted({min(count or self.data.learned, self.data.learned) for count in self._job.ask.curve}):
            found = [{"name": name, **way._of(count, len(course.epochs))} for name, way in ways.items()]
            each = ", ".join(f"{one['name']} {one['value']:.3f} in {one['seconds']:.1f} s" for one in found)
            self._tell.say(f"{count:,} photos: {each}")
            told.append({"photos": count, "ways": found})
        return told

    def _of(self, count: int, epochs: int) -> dict[str, float]:
        """What so many photos, drawn at random, give on the evaluation set."""
        rows = np.random.default_rng(self._how.seed).permutation(self.data.rows)[:count]
        learner, lesson = self._lesson(self._how, rows)
        begun = time.monotonic()
        Trainer(self._how, self._ranks).fit(learner, lesson, self._how.epochs, self._how.seed, until=epochs)
        seconds = time.monotonic() - begun
        asked = self.data.asked[self.data.good[self.data.asked]]
        known = rows[self.data.good[rows]] if self.task.gallery else rows[:0]
        return {"value": self.task.value(self._found(learner, lesson.feed, asked, known)), "seconds": seconds}

    def written(self, learner: Learner, course: Course, curve: list[dict[str, Any]]) -> Card:
        """Measures what was learned, and writes it as a version."""
        job, how = self._job, self._how
        found = self._found(learner)
        figures = self.task.figures(found)
        before = self._before()
        report = {
            "course": [dataclasses.asdict(epoch) for epoch in course.epochs],
            "best": course.best,
            "before": {name: vars(figure) for name, figure in before.items()},
            "curve": curve,
            **self._closer(found),
        }
        models = Models(self._settings.root)
        parent = job.ask.teacher or self.space.id
        with tempfile.TemporaryDirectory(prefix="likeness-model-") as scratch:
            path = Path(scratch, "model.safetensors")
            whole = not isinstance(self.task, Distil)
            recipe = learner.write(path, whole, tuple(self.task.classes), self._temperature)
            card = Card(
                name=job.name,
                version=job.run_id,
                task=job.ask.task,
                layer=recipe.top.layer if recipe.top else recipe.parts[-1].layer,
                space=self.space.id if not job.ask.scratch else self.space.name,
                parent=parent,
                frozen=not (how.unfreeze or job.ask.scratch),
                classes=tuple(self.task.classes),
                snapshots=job.snapshots,
                photos=self.data.learned,
                evaluation=job.held,
                metrics={name: _metric(figure) for name, figure in figures.items()},
                chosen=tuple(self._chosen),
                temperature=self._temperature,
                seed=how.seed,
                settings=how.model_dump(),
                licence=recipe.licence,
                made=datetime.datetime.now(datetime.UTC),
                run_id=job.run_id,
                weights=_file(path),
            )
            models.write(card, path, {"report.json": json.dumps(report).encode()})
        return card

    def _taken(self, warehouse: Warehouse, free: Mapping[str, Shown], asked: Mapping[str, Shown]) -> tuple[Task, Data]:
        """The task and its data."""
        job, how = self._job, self._how
        space = self.space.id if self._reads_vectors else ""
        if job.ask.teacher:
            space = space_of(self._settings, job.ask.teacher).id
        data = gathered(warehouse, how, job.snapshots, space, free, asked)
        if job.ask.teacher:
            return Distil(data.vectors.shape[1]), data
        task = TASKS[job.ask.task](data.shown[: data.learned], how)
        return task, data.kept([task.usable(one) for one in data.shown])

    @property
    def _reads_vectors(self) -> bool:
        return not (self._how.unfreeze or self._how.distort or self._job.ask.scratch)

    def _choose(self) -> tuple[Train, int]:
        """The candidate that is best on the parts of the photos that it has not learned from, and its epochs."""
        rows, folds = self.data.rows, self._how.folds
        part = (self.data.places[rows] * folds).astype(int)
        candidates = self._how.candidates or self.task.candidates
        best: tuple[float, int, Train] | None = None
        for candidate in candidates:
            how = self._how.model_copy(update={**candidate})
            curves, seen = [], []
            for fold in range(folds):
                inside, outside = rows[part == fold], rows[part != fold]
                if not len(inside) or not len(outside):
                    continue
                learner, lesson = self._lesson(how, outside)
                course = Trainer(how, self._ranks).fit(
                    learner, lesson, how.epochs, how.seed, self._judge(lesson, outside, inside)
                )
                curves.append([epoch.judged for epoch in course.epochs])
                seen.append((answers(learner, lesson.feed, inside, self._ranks.device), inside))
            mean = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
            epochs, value = int(mean.argmax()) + 1, float(mean.max())
            spread = float(np.std([curve[epochs - 1] for curve in curves]) / max(1, len(curves) - 1) ** 0.5)
            self._chosen.append({"settings": dict(candidate), "value": value, "error": spread, "epochs": epochs})
            self._tell.say(f"{dict(candidate) or 'as given'}: {value:.4f} by {folds} folds, best after {epochs} epochs")
            if best is None or value > best[0]:
                best = value, epochs, how
                if isinstance(self.task, Category):
                    found, inside = (np.concatenate(one) for one in zip(*seen, strict=True))
                    targets = self.task.targets([self.data.shown[row] for row in inside.tolist()])
                    self._temperature = measures.temperature(found, targets.numpy())
        assert best
        return best[2], best[1]

    def _lesson(self, how: Train, rows: np.ndarray) -> tuple[Learner, Lesson]:
        torch.manual_seed(how.seed)
        top = self.task.top(self.space.dim, how)
        learner = Learner(
            self.space,
            top,
            self._settings.extract.cache,
            ALL if self._job.ask.scratch else how.unfreeze,
            how.dropout,
            self._job.ask.scratch,
        )
        feed = self._feed(learner)
        good = rows[self.data.good[rows]]
        if isinstance(self.task, Distil):  # what all photos have in common would hide what tells them apart
            targets = torch.from_numpy(self.data.vectors - self.data.vectors[: self.data.learned].mean(axis=0))
        else:
            targets = self.task.targets(self.data.shown)
        loss = self.task.loss(targets[: self.data.learned], how, self._ranks)
        return learner, Lesson(feed, good, targets, loss)

    def _feed(self, learner: Learner) -> Feed:
        if self._reads_vectors:
            return Known(self.data.vectors[:, None])
        if self._pictures is None:
            self._tell.say("decoding photos, once for all epochs")
            self._pictures = Pictures(self._settings, self.data.image_ids, learner.how)
            self.data.good[:] = [key not in self._pictures.failures for key in self.data.image_ids]
            lost = len(self._pictures.failures) / len(self.data.image_ids)
            if lost > self._settings.gates.max_failure_rate:
                first = next(iter(self._pictures.failures.items()))
                raise GateError(
                    f"train: {lost:.1%} of the photos cannot be decoded ({first[0]}: {first[1]}), "
                    f"gates.max_failure_rate is {self._settings.gates.max_failure_rate:.1%}; nothing is trained"
                )
        if learner.eats == "photos":
            return Photos(self._pictures.pixels, learner)
        self._tell.say(f"running the frozen part of {self.space.backbone} once")
        return Known(self._pictures.maps(learner, self._how.distort, self._how.seed, self._ranks.device))

    def _judge(self, lesson: Lesson, rows: np.ndarray, aside: np.ndarray) -> Any:
        """What the task's first figure is on photos that are not learned from."""
        known = rows if self.task.gallery else rows[:0]
        aside = aside[self.data.good[aside]]

        def judge(learner: Learner) -> float:
            return self.task.value(self._found(learner, lesson.feed, aside, known))

        return judge

    def _found(
        self,
        learner: Learner,
        feed: Feed | None = None,
        asked: np.ndarray | None = None,
        known: np.ndarray | None = None,
    ) -> Found:
        """What a network gives; for the photos that are measured on by default."""
        feed = feed or self._feed(learner)
        asked = self.data.asked[self.data.good[self.data.asked]] if asked is None else asked
        if known is None:
            known = self.data.rows[self.data.good[self.data.rows]] if self.task.gallery else self.data.rows[:0]
        below = isinstance(self.task, Distil)
        given = [answers(learner, feed, rows, self._ranks.device, below) for rows in (asked, known)]
        told = [[self.data.shown[row] for row in rows.tolist()] for rows in (asked, known)]
        return Found(given[0], told[0], given[1], told[1])

    def _before(self) -> dict[str, Figure]:
        """The same figures of the vectors that were learned from, where neighbours are what is measured."""
        if not self.task.gallery:
            return {}
        if self._job.ask.scratch:  # the same network with random weights
            return self.task.figures(self._found(self._lesson(self._how, self.data.rows)[0]))
        if not self._reads_vectors:
            return {}
        asked, known = self.data.asked, self.data.rows
        told = [[self.data.shown[row] for row in rows.tolist()] for rows in (asked, known)]
        return self.task.figures(Found(self.data.vectors[asked], told[0], self.data.vectors[known], told[1]))

    def _closer(self, found: Found) -> dict[str, Any]:
        """For the report: confusions, calibration and the worst mistakes."""
        if not isinstance(self.task, Category):
            return {}
        truth = self.task.targets(found.asked_of).numpy()
        probabilities = softmax(found.asked, self._temperature)
        bins, error = measures.calibration(probabilities, truth)
        said = probabilities.argmax(axis=1)
        keys = [self.data.image_ids[row] for row in self.data.asked[self.data.good[self.data.asked]].tolist()]
        wrong = sorted(np.flatnonzero(said != truth).tolist(), key=lambda row: -probabilities[row].max())
        return {
            "confusion": measures.confusion(found.asked, truth).tolist(),
            "calibration": {"bins": [vars(one) for one in bins], "error": error},
            "mistakes": [
                {
                    "image_id": keys[row],
                    "truth": self.task.classes[truth[row]],
                    "said": self.task.classes[said[row]],
                    "sure": float(probabilities[row].max()),
                }
                for row in wrong[:_MISTAKES]
            ],
        }


def _space(job: Job) -> Space:
    return weightless(job.settings.extract.space) if job.ask.scratch else space_of(job.settings)


def _metric(figure: Figure) -> Metric:
    return Metric(value=figure.value, low=figure.low, high=figure.high)


def _file(path: Path) -> File:
    with path.open("rb") as file:
        return File(name=path.name, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
