"""Training plans: settings and a request in, all that the training processes must agree on out."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.evaluation.evaluation_sets import EvaluationSets
from likeness.models.backbones import Space, untrained_space
from likeness.models.spaces import space_of
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES, LISTINGS
from likeness.training.request import TrainingRequest
from likeness.training.tasks import DISTIL, TASKS

HELD_OUT_SHARE = 0.1
"""The share of the products that is held out where no setting says which."""
_CHECKPOINT_FORMAT = 3


@dataclass(frozen=True)
class TrainingPlan:
    """One training: settings, request, the id of the evaluation set, and the snapshots of the tables by name."""

    settings: Settings
    request: TrainingRequest
    run_id: str
    evaluation_set: str
    snapshots: Mapping[str, int]

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.settings.train.name or self.request.task

    @property
    def uses_stored_vectors(self) -> bool:
        """Whether a head is trained on vectors of the features table, without decoding any photo."""
        train = self.settings.train
        return not (train.unfreeze or train.distort or self.request.scratch)

    @property
    def head_only(self) -> bool:
        """Whether the whole backbone stays frozen."""
        return not (self.settings.train.unfreeze or self.request.scratch)

    def space(self) -> Space:
        """The space whose network is trained."""
        name = self.settings.extract.space
        return untrained_space(name) if self.request.scratch else space_of(self.settings)

    def vectors_space(self, space: Space) -> str:
        """The id of the space whose stored vectors are inputs or targets; empty for none."""
        if self.request.teacher:
            return space_of(self.settings, self.request.teacher).id
        return space.id if self.uses_stored_vectors else ""

    def from_scratch(self) -> "TrainingPlan":
        """The same plan with random weights for the backbone."""
        return dataclasses.replace(self, request=dataclasses.replace(self.request, scratch=True))

    @property
    def identity(self) -> str:
        """A hash of all that determines the weights; a checkpoint of another identity is not resumed."""
        train, space = self.settings.train.model_dump(), self.settings.extract.space
        request, snapshots = dataclasses.asdict(self.request), sorted(self.snapshots.items())
        parts = [_CHECKPOINT_FORMAT, train, space, self.evaluation_set, request, snapshots]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def file(self, key: str, suffix: str) -> str:
        """The URI of a temporary file of the training; `key` tells trainings of one name apart."""
        return uris.join(uris.canonical(self.settings.root), "training", f"{self.name}-{key[:12]}.{suffix}")


def plan_training(settings: Settings, request: TrainingRequest, run_id: str) -> TrainingPlan:
    """Plans a training; freezes an evaluation set, a tenth of the products, if the root has none.

    Raises:
        UsageError: the request is invalid, or there are no listings.
    """
    task, teacher = request.task, request.teacher
    if task not in TASKS:
        raise UsageError(f"--task {task!r} does not exist; there are: {', '.join(TASKS)}")
    if (task == DISTIL) != bool(teacher):
        problem = "needs --teacher, the space whose vectors are the targets" if task == DISTIL else "takes no --teacher"
        raise UsageError(f"--task {task} {problem}; write for example --task distil --teacher efficientnet_lite0.pool")
    tables, sets = TableReader(settings), EvaluationSets(settings.root)
    snapshots = {table.name: tables.snapshot(table) for table in (IMAGES, LISTINGS, FEATURES)}
    if snapshots[LISTINGS.name] is None:
        raise UsageError(f"root {settings.root} has no listings to learn from; run ./spark-submit.sh nightly first")
    evaluation_set = sets.find(settings.train.evaluation) or sets.freeze(settings, "default", "", HELD_OUT_SHARE)
    existing = {name: number for name, number in snapshots.items() if number is not None}
    request = dataclasses.replace(request, scratch=request.scratch or task == DISTIL)
    return TrainingPlan(settings, request, run_id, evaluation_set.id, existing)
