"""Training on a cluster: processes that are tasks of Spark on YARN, with a root on HDFS."""

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.runs import Job, submitted

from likeness import storage
from likeness.core.settings import load_settings
from likeness.models.model_registry import ModelRegistry
from likeness.training.plan import plan_training
from likeness.training.request import TrainingRequest
from likeness.training.training_run import train_model

from .places import Place

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
HOW = ("train.folds=0", "train.epochs=6", "train.dropout=0", "train.hidden=[16]", "train.batch_size=32")


def test_two_tasks_on_yarn_learn_what_one_process_learns(yarn: Any, indexed: Place) -> None:
    settings = indexed.settings
    models = ModelRegistry(settings.root, settings.extract.cache)
    assignments = (*HOW, f"extract.cache={settings.extract.cache}")
    alone = load_settings(None, {"root": settings.root}, (*assignments, "train.name=by1"))
    assert train_model(plan_training(alone, TrainingRequest("category"), "here"))
    flags = ["--root", settings.root, "--name", "by2", "--processes", "2"]
    flags += [word for text in assignments for word in ("--set", text)]
    with Job(*submitted("train", flags, (*yarn, "--num-executors", "2", "--executor-cores", "1"))) as job:
        assert job.code(300) == 0, job.output
    heads = []
    for name in ("by1", "by2"):
        card = models.card(name)
        assert (card.photos, card.evaluation) == (models.card("by1").photos, "default@0001")
        tensors = load_file(storage.local_copy(models.weights(card), settings.extract.cache))
        heads.append({key: value for key, value in tensors.items() if ".top." in key})
    assert heads[0]
    for key, value in heads[0].items():
        np.testing.assert_allclose(value, heads[1][key], atol=1e-4)
