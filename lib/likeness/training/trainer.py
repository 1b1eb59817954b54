"""The loop: a network, its feed, targets and a loss in, the network trained out; the same on any number of processes.

The batches of an epoch and all draws follow from the seed and the epoch, and each process takes its share of each
batch, so that gradients are those of one process, and a loop that was killed goes on where its checkpoint was.
[torch]
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Train
from likeness.training.augmentation import DRAWS
from likeness.training.checkpoints import Checkpoint
from likeness.training.distributed import Workers
from likeness.training.history import Epoch, History
from likeness.training.inputs import Inputs
from likeness.training.losses import Loss
from likeness.training.network import Network

_PIECE = 128
Validator = Callable[[Network], float]
"""How good a network is, on what it does not learn from; higher is better."""


@dataclass(frozen=True)
class Dataset:
    """What is learned: rows of a feed, int64 (n,), and targets of all its rows."""

    feed: Inputs
    rows: np.ndarray
    targets: torch.Tensor
    loss: Loss


class Trainer:
    """Trains networks by one set of settings."""

    def __init__(
        self,
        how: Train,
        ranks: Workers = Workers(),  # noqa: B008 - frozen
        checkpoint: Checkpoint | None = None,
        tell: Callable[[int, Epoch], None] | None = None,
    ) -> None:
        self._how, self._ranks, self._checkpoint, self._tell = how, ranks, checkpoint, tell

    def fit(
        self,
        learner: Network,
        lesson: Dataset,
        epochs: int,
        seed: int,
        judge: Validator | None = None,
        until: int | None = None,
    ) -> History:
        """Trains a network.

        Args:
            learner: the network; it is changed.
            lesson: what it learns.
            epochs: passes over the rows, at most.
            seed: of batches, draws and dropout.
            until: passes after which it ends although the learning rate is made for `epochs`.
            judge: stops when it has seen nothing better for `train.patience` epochs, and the best is kept.

        Raises:
            DataError: the loss is not finite.
        """
        how, ranks = self._how, self._ranks
        learner.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = _batch(how.batch_size, len(lesson.rows), ranks.of)
        steps = len(lesson.rows) // batch
        optimiser = _optimiser(how, learner)
        tops = [group["lr"] for group in optimiser.param_groups]
        net = DistributedDataParallel(learner) if ranks.of > 1 else learner
        course, kept, begin = History(), _state(learner), (0, 0)
        if self._checkpoint and (found := self._checkpoint.load(learner, optimiser, kept)):
            course, begin = found
        for epoch in range(begin[0], until or epochs):
            if judge and epoch - course.best > how.patience:
                break
            learner.train()
            torch.manual_seed(hash((seed, epoch)) & 0xFFFFFFFF)  # of dropout
            began, total = time.monotonic(), 0.0
            draws = np.random.default_rng([seed, epoch])
            order = draws.permutation(lesson.rows)
            every = draws.random((steps * batch, DRAWS), np.float32)
            first = begin[1] if epoch == begin[0] else 0
            for step in range(first, steps):
                for group, top in zip(optimiser.param_groups, tops, strict=True):
                    group["lr"] = top * _scheduled((epoch * steps + step) / (epochs * steps), how.warmup)
                span = slice(step * batch + ranks.mine, (step + 1) * batch, ranks.of)
                total += self._step(net, lesson, order[span], every[span], optimiser, f"epoch {epoch + 1}")
                if self._checkpoint and self._checkpoint.due(ranks):
                    self._checkpoint.save(learner, optimiser, kept, course, (epoch, step + 1))
            judged = ranks.agreed(judge(_ready(learner))) if judge else math.nan
            seen = steps - first
            course.epochs.append(Epoch(total / max(1, seen), judged, time.monotonic() - began, seen * batch))
            if not judge or course.best < 0 or judged > course.epochs[course.best].judged:
                course.best, kept = epoch, _state(learner)
            if self._tell and ranks.first:
                self._tell(epoch + 1, course.epochs[-1])
        learner.load_state_dict(kept)
        return course

    def _step(
        self,
        net: torch.nn.Module,
        lesson: Dataset,
        rows: np.ndarray,
        draws: np.ndarray,
        optimiser: torch.optim.Optimizer,
        where: str,
    ) -> float:
        how, device = self._how, self._ranks.device
        optimiser.zero_grad(set_to_none=True)
        pieces = min(how.accumulate, len(rows))
        total = 0.0
        for number in range(pieces):
            part = slice(number * len(rows) // pieces, (number + 1) * len(rows) // pieces)
            given = lesson.feed.take(rows[part], draws[part] if how.distort else None, device)
            wanted = lesson.targets[torch.from_numpy(rows[part])].to(device)
            last = number == pieces - 1
            with nullcontext() if last or not isinstance(net, DistributedDataParallel) else net.no_sync():
                with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=_half(how, device)):
                    found = net(given)
                loss = lesson.loss(found.float(), wanted) * (len(rows[part]) / len(rows))
                if not torch.isfinite(loss):
                    raise DataError(
                        f"training: the loss is {loss.item()} in {where}; nothing is kept. "
                        f"Lower train.rate = {how.rate}"
                    )
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.item())
        torch.nn.utils.clip_grad_norm_(net.parameters(), how.clip)
        optimiser.step()
        return total


@torch.no_grad()
def answers(learner: Network, feed: Inputs, rows: np.ndarray, device: str = "cpu", below: bool = False) -> np.ndarray:
    """What a network, or what is `below` its top, gives for rows, int64 (n,), as they are: float32 (n, outputs)."""
    learner.to(device).eval()
    net = learner.below if below else learner
    parts = [net(feed.take(rows[at : at + _PIECE], None, device)).cpu() for at in range(0, len(rows), _PIECE)]
    return torch.cat(parts).float().numpy() if parts else np.empty((0, 0), np.float32)


def _ready(learner: Network) -> Network:
    learner.eval()
    return learner


def _batch(wanted: int, rows: int, processes: int) -> int:
    """Rows of a batch: as wanted, or all there are, and the same number for each process."""
    size = min(wanted, rows) // processes * processes
    if not size:
        raise UsageError(f"train.processes = {processes}: there are {rows} photos to learn from; use fewer")
    return size


def _optimiser(how: Train, learner: Network) -> torch.optim.Optimizer:
    groups = learner.rates(how.rate, how.rate_decay)
    if how.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=how.rate, momentum=how.momentum, weight_decay=how.weight_decay)
    return torch.optim.AdamW(groups, lr=how.rate, weight_decay=how.weight_decay, fused=True)


def _scheduled(done: float, warmup: float) -> float:
    """Up in a straight line, down along a cosine (Loshchilov and Hutter 2016)."""
    if done < warmup:
        return (done + 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _half(how: Train, device: str) -> bool:
    return how.precision == "bfloat16" or (how.precision == "auto" and device.startswith("cuda"))


def _state(learner: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in learner.state_dict().items()}
