"""Progress of a training: log lines, a bar with loss and speed, and TensorBoard's files.   [torch]"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from likeness.core.errors import UsageError
from likeness.core.progress import Bar, Reporter
from likeness.core.settings import Train
from likeness.models.training_report import Epoch


class ProgressLogger:
    """Logs for the first process; the others have no `reporter` and log nothing."""

    def __init__(self, settings: Train, name: str, reporter: Reporter | None) -> None:
        self._reporter = reporter
        self._board = _open_board(settings.tensorboard, name) if settings.tensorboard and reporter else None

    def info(self, text: str) -> None:
        """Logs one line."""
        if self._reporter:
            self._reporter.say(f"train: {text}")

    def bar(self, activity: str, total: int) -> AbstractContextManager[Bar]:
        """Shows a bar over so many photos; yields the bar to be moved."""
        return self._bar(f"train: {activity}", total, "photos")

    def _bar(self, activity: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        return self._reporter.bar(activity, total, unit) if self._reporter else nullcontext(Bar())

    @contextmanager
    def epochs(self, total: int) -> Iterator[Callable[[int, Epoch], None]]:
        """Shows a bar over epochs; yields a callback that takes the number of finished epochs and the last of them."""
        with self._bar("train", total, "epochs") as bar:

            def on_epoch(done: int, epoch: Epoch) -> None:
                validation = "" if math.isnan(epoch.validation) else f", validation {epoch.validation:.4f}"
                rate = epoch.photos / max(epoch.seconds, 1e-9)
                bar.at(done, f"loss {epoch.loss:.4f}{validation}, {rate:,.0f} photos/s")
                if self._board:
                    self._board.add_scalar("loss", epoch.loss, done)
                    if validation:
                        self._board.add_scalar("validation", epoch.validation, done)
                    self._board.flush()

            yield on_epoch


def _open_board(folder: str, name: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            f"train.tensorboard = {folder!r}: tensorboard is not installed; install likeness[train], or leave it empty"
        ) from None
    return SummaryWriter(f"{folder}/{name}")
