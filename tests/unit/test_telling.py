"""What is told while a network learns."""

import importlib.util
from pathlib import Path

import pytest

from likeness.errors import UsageError
from likeness.progress import Reporter
from likeness.settings import Train
from likeness.training.fit import Epoch
from likeness.training.telling import Telling


def test_loss_figure_and_rate_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Telling(Train(), "mine", 300, Reporter())
    telling.epoch(1, 3, Epoch(2.5, float("nan"), 0.5))
    telling.epoch(2, 3, Epoch(1.5, 0.5, 0.5))
    telling.epoch(3, 3, Epoch(0.5, 0.75, 0.5))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train: 1 of 3: loss 2.5000, 600 photos/s",
        "train: 3 of 3: loss 0.5000, 0.7500 on what was held aside, 600 photos/s",
    ], "every few seconds, and the last"


def test_the_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Telling(Train(tensorboard="anywhere"), "mine", 300, None)
    telling.say("something")
    telling.epoch(1, 1, Epoch(2.5, 0.5, 0.5))
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="it is installed")
def test_tensorboard_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"train.tensorboard = .*: tensorboard is not installed; install likeness\[train\]"
    ):
        Telling(Train(tensorboard=str(tmp_path)), "mine", 300, Reporter())
