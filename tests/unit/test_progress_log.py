"""What is told while a network learns."""

import sys
from pathlib import Path

import pytest

from likeness.core import progress
from likeness.core.errors import UsageError
from likeness.core.progress import Reporter
from likeness.core.settings import Train
from likeness.models.training_report import Epoch
from likeness.training.progress_log import ProgressLogger


def test_loss_figure_and_rate_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_EVERY_S", 0.0)
    with ProgressLogger(Train(), "mine", Reporter()).epochs(2) as tell:
        tell(1, Epoch(loss=2.5, validation=float("nan"), seconds=0.5, photos=300))
        tell(2, Epoch(loss=0.5, validation=0.75, seconds=0.5, photos=300))
    assert capsys.readouterr().err.splitlines() == [
        "train: 1 of 2 epochs (50%): loss 2.5000, 600 photos/s",
        "train: 2 of 2 epochs (100%): loss 0.5000, validation 0.7500, 600 photos/s",
    ]


def test_the_last_epoch_is_told_however_soon_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLogger(Train(), "mine", Reporter()).epochs(2) as tell:
        tell(1, Epoch(loss=2.5, validation=0.5, seconds=0.5, photos=300))
        tell(2, Epoch(loss=0.5, validation=0.75, seconds=0.5, photos=300))
    assert [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()] == ["train: 2 of 2 epochs"]


def test_the_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    log = ProgressLogger(Train(tensorboard="anywhere"), "mine", None)
    log.info("something")
    with log.epochs(1) as tell:
        tell(1, Epoch(loss=2.5, validation=0.5, seconds=0.5, photos=300))
    assert capsys.readouterr() == ("", "")


def test_tensorboards_files_hold_loss_and_figure(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with ProgressLogger(Train(tensorboard=str(tmp_path)), "mine", Reporter()).epochs(2) as tell:
        tell(1, Epoch(loss=2.5, validation=float("nan"), seconds=0.5, photos=300))
        tell(2, Epoch(loss=0.5, validation=0.75, seconds=0.5, photos=300))
    events = EventAccumulator(str(tmp_path / "mine"))
    events.Reload()
    scalars = {name: [(one.step, one.value) for one in events.Scalars(name)] for name in ("loss", "validation")}
    assert scalars == {"loss": [(1, 2.5), (2, 0.5)], "validation": [(2, 0.75)]}


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        UsageError, match=r"train.tensorboard = .*: tensorboard is not installed; install likeness\[train\]"
    ):
        ProgressLogger(Train(tensorboard=str(tmp_path)), "mine", Reporter())
