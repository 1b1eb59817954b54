"""Train: a plan in, a version of a model out; by this process, or by several under TorchDistributor.   [pyspark]"""

import json
import os
import re

from pyspark.ml.torch.distributor import TorchDistributor

from likeness import storage
from likeness.core import errors
from likeness.core.errors import LikenessError, ServiceError
from likeness.models.model_card import ModelCard
from likeness.spark.run import Run
from likeness.storage.run_facts import TrainFacts
from likeness.training.plan import TrainingPlan
from likeness.training.training_run import train_model


def train(run: Run, job: TrainingPlan) -> ModelCard:
    """Trains a model.

    Raises:
        ServiceError: a process that trains has died; the next run goes on from the checkpoint.
        LikenessError: as `train_model`.
    """
    with run.stage(TrainFacts) as facts:
        processes = job.settings.train.processes
        card = train_model(job) if processes == 1 else _together(run, job, processes)
        assert card
        facts.model, facts.version, facts.evaluation = card.name, card.version, card.evaluation
        facts.metrics = {name: metric.value for name, metric in card.metrics.items()}
        facts.photos, facts.processes = card.photos, processes
    return card


def _together(run: Run, job: TrainingPlan, processes: int) -> ModelCard:
    """Processes of this machine where Spark is local, else tasks of Spark, one each."""
    local = str(run.tables.spark.sparkContext.master).startswith("local")
    gpus = job.settings.extract.gpus > 0
    told = _told(job)
    storage.files(told).delete(told)
    if local:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        found = TorchDistributor(processes, local_mode=local, use_gpu=gpus).run(_process, job)
    except RuntimeError as error:
        try:
            said = json.loads(storage.files(told).read(told))
        except FileNotFoundError:
            raise ServiceError(
                f"train: a process of the {processes} that train has died ({_briefly(error)}); "
                "its last words are above. "
                "Run the same command again: it goes on from the last checkpoint"
            ) from None
        kind: type[LikenessError] = getattr(errors, said["kind"])
        raise kind(said["error"]) from None
    return ModelCard.model_validate_json(str(found))


def _briefly(error: RuntimeError) -> str:
    """Without the command and its output."""
    return re.sub(r"Command \[.*?\] ", "torchrun ", str(error), count=1).partition(" The task output")[0]


def _process(job: TrainingPlan) -> str:
    """What one of the processes does: the card, as JSON, in the first."""
    try:
        card = train_model(job)
    except LikenessError as error:
        told = json.dumps({"kind": type(error).__name__, "error": str(error)})
        storage.files(_told(job)).write(_told(job), told.encode())
        raise
    return card.model_dump_json() if card else ""


def _told(job: TrainingPlan) -> str:
    """Where a process says why it stops."""
    return job.file(job.run_id, "error.json")
