"""Train: a training plan in, a version of a model out; in this process or under TorchDistributor.   [pyspark]"""

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


def train(run: Run, plan: TrainingPlan) -> ModelCard:
    """Trains a model.

    Raises:
        ServiceError: a training process has died; the next run resumes from the checkpoint.
        LikenessError: as `train_model`.
    """
    with run.stage(TrainFacts) as facts:
        processes = plan.settings.train.processes
        card = train_model(plan) if processes == 1 else _train_distributed(run, plan, processes)
        assert card
        facts.model, facts.version, facts.evaluation = card.name, card.version, card.evaluation
        facts.metrics = {name: metric.value for name, metric in card.metrics.items()}
        facts.photos, facts.processes = card.photos, processes
    return card


def _train_distributed(run: Run, plan: TrainingPlan, processes: int) -> ModelCard:
    """Trains in processes of this machine if Spark is local, else in as many Spark tasks."""
    local = str(run.tables.spark.sparkContext.master).startswith("local")
    error_file = _error_file(plan)
    storage.files(error_file).delete(error_file)
    if local:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        card = TorchDistributor(processes, local, plan.settings.extract.gpus > 0).run(_process, plan)
    except RuntimeError as error:
        try:
            reason = json.loads(storage.files(error_file).read(error_file))
        except FileNotFoundError:
            raise ServiceError(
                f"train: one of {processes} training processes has died ({_briefly(error)}); its last output is above. "
                "Run the same command again: the training resumes from the last checkpoint"
            ) from None
        kind: type[LikenessError] = getattr(errors, reason["kind"])
        raise kind(reason["error"]) from None
    return ModelCard.model_validate_json(str(card))


def _briefly(error: RuntimeError) -> str:
    """The error without torchrun's command line and output."""
    return re.sub(r"Command \[.*?\] ", "torchrun ", str(error), count=1).partition(" The task output")[0]


def _process(plan: TrainingPlan) -> str:
    """Trains in one of the processes; the first one returns the card as JSON, the others an empty string."""
    try:
        card = train_model(plan)
    except LikenessError as error:
        reason = json.dumps({"kind": type(error).__name__, "error": str(error)})
        storage.files(_error_file(plan)).write(_error_file(plan), reason.encode())
        raise
    return card.model_dump_json() if card else ""


def _error_file(plan: TrainingPlan) -> str:
    """The file to which a process writes the error that ends it."""
    return plan.file(plan.run_id, "error.json")
