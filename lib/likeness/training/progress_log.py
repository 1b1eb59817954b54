"""What is told while a network learns: a bar with loss and rate, and TensorBoard's files.   [torch]"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from likeness.core.errors import UsageError
from likeness.core.progress import Bar, Reporter
from likeness.core.settings import Train
from likeness.training.history import Epoch


class ProgressLogger:
    """Speaks for the first process; the others have no `reporter` and are silent."""

    def __init__(self, how: Train, name: str, reporter: Reporter | None) -> None:
        self._reporter = reporter
        self._board = _board(how.tensorboard, name) if how.tensorboard and reporter else None

    def say(self, text: str) -> None:
        """One line."""
        if self._reporter:
            self._reporter.say(f"train: {text}")

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Bar]:
        """Is told how many photos of all are done."""
        if not self._reporter:
            yield Bar()
            return
        with self._reporter.bar(f"train: {what}", total, "photos") as bar:
            yield bar

    @contextmanager
    def epochs(self, of: int) -> Iterator[Callable[[int, Epoch], None]]:
        """What is called with the number of epochs that are done, and how the last one went."""
        if not self._reporter:
            yield lambda done, epoch: None
            return
        with self._reporter.bar("train", of, "epochs") as bar:

            def tell(done: int, epoch: Epoch) -> None:
                judged = "" if math.isnan(epoch.judged) else f", {epoch.judged:.4f} on what was held aside"
                rate = epoch.photos / max(epoch.seconds, 1e-9)
                bar.at(done, f"loss {epoch.loss:.4f}{judged}, {rate:,.0f} photos/s")
                if self._board:
                    self._board.add_scalar("loss", epoch.loss, done)
                    if judged:
                        self._board.add_scalar("held aside", epoch.judged, done)
                    self._board.flush()

            yield tell


def _board(folder: str, name: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            f"train.tensorboard = {folder!r}: tensorboard is not installed; install likeness[train], or leave it empty"
        ) from None
    return SummaryWriter(f"{folder}/{name}")
