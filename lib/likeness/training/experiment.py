"""One process's part of a training: the photos, the task and what networks are fed with, ready to be learned.

[torch]
"""

from collections.abc import Callable

import numpy as np
import torch

from likeness.catalog.annotations import annotations
from likeness.core.errors import GateError
from likeness.core.settings import Train
from likeness.core.statistics import Figure
from likeness.evaluation.evaluation_sets import EvaluationSets, apart
from likeness.models.backbones import Space, weightless
from likeness.models.model_registry import space_of
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS
from likeness.training.data import gathered
from likeness.training.distributed import Workers
from likeness.training.image_cache import ImageCache
from likeness.training.inputs import FeatureCache, Inputs, PhotoInputs
from likeness.training.job import Job
from likeness.training.network import ALL, Network
from likeness.training.progress_log import ProgressLogger
from likeness.training.tasks import TASKS
from likeness.training.tasks.task import Predictions
from likeness.training.trainer import Dataset, Validator, answers


class Experiment:
    """What a job wants learned, and its photos, of which those cannot be decoded are left out.

    Raises:
        DataError: there is not enough to learn from, or what is learned is not finite.
        UsageError: the settings do not fit the network.
        GateError: too many photos cannot be decoded.
    """

    def __init__(self, job: Job, ranks: Workers, telling: ProgressLogger) -> None:
        self.job, self.ranks, self.how, self._telling = job, ranks, job.settings.train, telling
        self.space = _space(job)
        held = EvaluationSets(job.settings.root).find(job.held)
        assert held
        warehouse = TableReader(job.settings)
        photos = annotations(warehouse, job.snapshots[LISTINGS.name])
        asked = {key: photos.get(key, one) for key, one in held.photos.items()}
        known = _known_by(job, self.space)
        data = gathered(warehouse, self.how, job.snapshots, known, apart(photos, held), asked)
        self.task = TASKS[job.ask.task](data, self.how)
        self.data = data.kept([self.task.usable(one) for one in data.shown])
        self._pictures = None if job.reads_vectors else self._decoded()
        self._targets = self.task.targets(self.data)
        telling.say(f"{self.data.learned:,} photos to learn from, {len(self.data.asked):,} of {job.held} to measure on")

    def lesson(self, how: Train, rows: np.ndarray) -> tuple[Network, Dataset]:
        """A fresh network, and what it is to learn: these rows of the data, int64 (n,)."""
        torch.manual_seed(how.seed)
        scratch = self.job.ask.scratch
        learner = Network(
            self.space,
            self.task.top(self.space.dim, how),
            self.job.settings.extract.cache,
            ALL if scratch else how.unfreeze,
            how.dropout,
            scratch,
        )
        loss = self.task.loss(self._targets[: self.data.learned], how, self.ranks)
        return learner, Dataset(self._feed(learner), rows, self._targets, loss)

    def outputs(self, learner: Network, feed: Inputs, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a network gives for rows, float32 (n, outputs), and what it ought to give."""
        given = answers(learner, feed, rows, self.ranks.device, not self.task.topped)
        return given, self._targets[torch.from_numpy(rows)].numpy()

    def found(self, learner: Network, feed: Inputs, asked: np.ndarray, known: np.ndarray) -> Predictions:
        """What it gives for rows that are measured on, among `known` rows where the task looks at neighbours."""
        return self._found(lambda rows: self.outputs(learner, feed, rows)[0], asked, known)

    def judge(self, lesson: Dataset, rows: np.ndarray, aside: np.ndarray) -> Validator:
        """What the task's first figure is on rows that are held aside of those that are learned from."""
        return lambda learner: self.task.value(self.found(learner, lesson.feed, aside, rows))

    def before(self) -> dict[str, Figure]:
        """The same figures without what is learned, where neighbours are what is measured.

        They are those of the vectors that were learned from, or of the same network with random weights.
        """
        rows, asked = self.data.rows, self.data.asked
        if not self.task.gallery:
            return {}
        if self.job.ask.scratch:
            learner, lesson = self.lesson(self.how, rows)
            return self.task.figures(self.found(learner, lesson.feed, asked, rows))
        if not self.job.reads_vectors:
            return {}
        return self.task.figures(self._found(lambda rows: self.data.vectors[rows], asked, rows))

    def _found(self, give: Callable[[np.ndarray], np.ndarray], asked: np.ndarray, known: np.ndarray) -> Predictions:
        known = known if self.task.gallery else known[:0]
        told = [[self.data.shown[row] for row in rows.tolist()] for rows in (asked, known)]
        return Predictions(give(asked), told[0], self._targets[torch.from_numpy(asked)].numpy(), give(known), told[1])

    def _decoded(self) -> ImageCache:
        """The photos' pixels; the data is left with those that have some."""
        pictures = ImageCache(self.job.settings, self.data.image_ids, self.space.preprocessing, self._telling.bar)
        lost, most = len(pictures.failures) / len(self.data.image_ids), self.job.settings.gates.max_failure_rate
        if lost > most:
            first = next(iter(pictures.failures.items()))
            raise GateError(
                f"train: {lost:.1%} of the photos cannot be decoded ({first[0]}: {first[1]}), "
                f"gates.max_failure_rate is {most:.1%}; nothing is trained"
            )
        self.data = self.data.kept([key not in pictures.failures for key in self.data.image_ids])
        return pictures

    def _feed(self, learner: Network) -> Inputs:
        if self._pictures is None:
            return FeatureCache(self.data.vectors[:, None])
        at = self._pictures.rows(self.data.image_ids)
        if learner.eats == "photos":
            return PhotoInputs(self._pictures.pixels, at, learner)
        return FeatureCache(self._pictures.maps(learner, self.how.distort, self.how.seed), at)


def _space(job: Job) -> Space:
    return weightless(job.settings.extract.space) if job.ask.scratch else space_of(job.settings)


def _known_by(job: Job, space: Space) -> str:
    """The id of the space whose vectors are learned from, or are to be learned; empty for none."""
    if job.ask.teacher:
        return space_of(job.settings, job.ask.teacher).id
    return space.id if job.reads_vectors else ""
