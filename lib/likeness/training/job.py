"""A training as it is planned: settings and what is asked in, all that its processes must agree on out."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.evaluation.evaluation_sets import EvaluationSets
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES, LISTINGS
from likeness.training.request import TrainingRequest
from likeness.training.tasks import DISTIL, TASKS

ASIDE = 0.1
"""The share of the products that is held aside where nothing else says which."""


@dataclass(frozen=True)
class Job:
    """What is to be learned; everything that the processes must agree on."""

    settings: Settings
    ask: TrainingRequest
    run_id: str
    held: str
    snapshots: Mapping[str, int]

    @property
    def name(self) -> str:
        """Of the model."""
        return self.settings.train.name or self.ask.task

    @property
    def reads_vectors(self) -> bool:
        """Whether vectors of the table are learned from, and no photo is looked at."""
        how = self.settings.train
        return not (how.unfreeze or how.distort or self.ask.scratch)

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

    def file(self, of: str, ending: str) -> str:
        """The URI of a file that is there while the model is trained; `of` tells trainings of one name apart."""
        return uris.join(uris.canonical(self.settings.root), "training", f"{self.name}-{of[:12]}.{ending}")


def plan(settings: Settings, ask: TrainingRequest, run_id: str) -> Job:
    """Looks at what there is to learn; freezes an evaluation set, a tenth of the products, if the root has none.

    Raises:
        UsageError: the task is none, or there is nothing to learn from.
    """
    task, teacher = ask.task, ask.teacher
    if task not in TASKS:
        raise UsageError(f"--task {task!r} is none; there are: {', '.join(TASKS)}")
    if (task == DISTIL) != bool(teacher):
        told = "wants --teacher, a space whose vectors are learned" if task == DISTIL else "has no teacher"
        raise UsageError(f"--task {task} {told}; write for example --task distil --teacher efficientnet_lite0.pool")
    warehouse, sets = TableReader(settings), EvaluationSets(settings.root)
    snapshots = {table.name: warehouse.snapshot(table) for table in (IMAGES, LISTINGS, FEATURES)}
    if snapshots[LISTINGS.name] is None:
        raise UsageError(f"root {settings.root} has no listings to learn from; run ./spark-submit.sh nightly first")
    held = sets.find(settings.train.evaluation) or sets.freeze(settings, "default", "", ASIDE)
    known = {name: number for name, number in snapshots.items() if number is not None}
    asked = dataclasses.replace(ask, scratch=ask.scratch or task == DISTIL)
    return Job(settings, asked, run_id, held.id, known)
