"""Training on a cluster: processes that are tasks of Spark on YARN, with a root on HDFS."""

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.runs import Job, submitted

from likeness import storage
from likeness.models.model_registry import ModelRegistry

from .places import LOCAL, Place

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
HOW = ("train.folds=0", "train.epochs=6", "train.dropout=0", "train.hidden=[16]", "train.batch_size=32")


def test_two_tasks_on_yarn_learn_what_one_process_learns(yarn: Any, indexed: Place) -> None:
    settings = indexed.settings
    models, heads = ModelRegistry(settings.root, settings.extract.cache), []
    for processes, options in ((1, LOCAL), (2, (*yarn, "--num-executors", "2", "--executor-cores", "1"))):
        name = f"by{processes}"
        sets = [word for text in (*HOW, f"extract.cache={settings.extract.cache}") for word in ("--set", text)]
        flags = ["--root", settings.root, "--name", name, "--processes", str(processes), *sets]
        with Job(*submitted("train", flags, options)) as job:
            assert job.code(300) == 0, job.output
        card = models.card(name)
        assert (card.photos, card.evaluation) == (models.card("by1").photos, "default@0001")
        uri = models.weights(card)
        tensors = load_file(storage.local_copy(uri, settings.extract.cache))
        heads.append({key: value for key, value in tensors.items() if ".top." in key})
    assert heads[0]
    for key, value in heads[0].items():
        np.testing.assert_allclose(value, heads[1][key], atol=1e-4)
