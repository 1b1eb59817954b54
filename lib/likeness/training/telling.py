"""What is told while a network learns: a bar with loss and rate, and TensorBoard's files.   [torch]"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from likeness.errors import UsageError
from likeness.progress import Reporter
from likeness.settings import Train

if TYPE_CHECKING:
    from likeness.training.fit import Epoch


class Telling:
    """Speaks for the first process; the others have no `reporter` and are silent."""

    def __init__(self, how: Train, name: str, photos: int, reporter: Reporter | None) -> None:
        self._reporter, self._photos = reporter, photos
        self._board = _board(how.tensorboard, name) if how.tensorboard and reporter else None

    def say(self, text: str) -> None:
        """One line."""
        if self._reporter:
            self._reporter.say(f"train: {text}")

    def epoch(self, done: int, of: int, epoch: Epoch) -> None:
        """How an epoch went."""
        judged = "" if epoch.judged != epoch.judged else f", {epoch.judged:.4f} on what was held aside"
        rate = self._photos / max(epoch.seconds, 1e-9)
        if self._reporter:
            self._reporter.step("train", done, of, f"loss {epoch.loss:.4f}{judged}, {rate:,.0f} photos/s")
        if self._board:
            self._board.add_scalar("loss", epoch.loss, done)
            if judged:
                self._board.add_scalar("held aside", epoch.judged, done)
            self._board.flush()


def _board(folder: str, name: str) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            f"train.tensorboard = {folder!r}: tensorboard is not installed; install likeness[train], or leave it empty"
        ) from None
    return SummaryWriter(f"{folder}/{name}")
