"""The training loop: a network and a dataset in, the trained network and its history out; on one process or several.

Batches and random draws follow from the seed and the epoch, and each process takes its share of each batch: gradients
are those of one process, and a killed training resumes from its checkpoint with the same result.   [torch]
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
from likeness.models.training_report import Epoch
from likeness.training.augmentation import DRAWS
from likeness.training.checkpoints import Checkpoint
from likeness.training.distributed import Workers
from likeness.training.history import History
from likeness.training.inputs import Inputs
from likeness.training.losses import Loss
from likeness.training.network import Network

_PREDICT_BATCH = 128
Validator = Callable[[Network], float]
"""The metric of a network on validation photos; higher is better."""


@dataclass(frozen=True)
class Dataset:
    """What a network is trained on: rows of its inputs, int64 (n,), the targets of all rows, and the loss."""

    inputs: Inputs
    rows: np.ndarray
    targets: torch.Tensor
    loss: Loss


class Trainer:
    """Trains networks by one set of settings; calls `on_epoch` with the number of finished epochs and the last one."""

    def __init__(
        self,
        settings: Train,
        workers: Workers = Workers(),  # noqa: B008 - frozen
        checkpoint: Checkpoint | None = None,
        on_epoch: Callable[[int, Epoch], None] | None = None,
    ) -> None:
        self._settings, self._workers, self._checkpoint, self._on_epoch = settings, workers, checkpoint, on_epoch

    def fit(
        self,
        network: Network,
        dataset: Dataset,
        epochs: int,
        seed: int,
        validate: Validator | None = None,
        stop_after: int | None = None,
    ) -> History:
        """Trains a network in place; with validation it ends with the weights of the best epoch.

        Args:
            network: the network.
            dataset: what it is trained on.
            epochs: passes over the rows, for which the learning rate schedule is made.
            seed: of batches, augmentation and dropout.
            validate: stops the training when the metric has not improved for `train.patience` epochs.
            stop_after: epochs after which the training stops, before the end of the schedule.

        Raises:
            DataError: the loss is not finite.
        """
        settings, workers = self._settings, self._workers
        network.to(workers.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = _batch_size(settings.batch_size, len(dataset.rows), workers.world_size)
        steps = len(dataset.rows) // batch
        optimiser = _optimiser(settings, network)
        max_rates = [group["lr"] for group in optimiser.param_groups]
        model = DistributedDataParallel(network) if workers.world_size > 1 else network
        history, best_weights, start = History(), _copy_weights(network), (0, 0)
        if self._checkpoint and (resumed := self._checkpoint.load(network, optimiser, best_weights)):
            history, start = resumed
        for epoch in range(start[0], stop_after or epochs):
            if validate and epoch - history.best > settings.patience:
                break
            network.train()
            torch.manual_seed(hash((seed, epoch)) & 0xFFFFFFFF)  # for dropout
            started, total = time.monotonic(), 0.0
            generator = np.random.default_rng([seed, epoch])
            order = generator.permutation(dataset.rows)
            draws = generator.random((steps * batch, DRAWS), np.float32)
            first = start[1] if epoch == start[0] else 0
            for step in range(first, steps):
                for group, rate in zip(optimiser.param_groups, max_rates, strict=True):
                    group["lr"] = rate * _schedule((epoch * steps + step) / (epochs * steps), settings.warmup)
                span = slice(step * batch + workers.rank, (step + 1) * batch, workers.world_size)
                total += self._step(model, dataset, order[span], draws[span], optimiser, epoch)
                if self._checkpoint and self._checkpoint.is_due(workers):
                    self._checkpoint.save(network, optimiser, best_weights, history, (epoch, step + 1))
            metric = workers.broadcast(validate(network.eval())) if validate else math.nan
            loss, seconds = total / max(1, steps - first), time.monotonic() - started
            photos = (steps - first) * batch
            history.epochs.append(Epoch(loss=loss, validation=metric, seconds=seconds, photos=photos))
            if not validate or history.best < 0 or metric > history.epochs[history.best].validation:
                history.best, best_weights = epoch, _copy_weights(network)
            if self._on_epoch and workers.is_first:
                self._on_epoch(epoch + 1, history.epochs[-1])
        network.load_state_dict(best_weights)
        return history

    def _step(
        self,
        model: torch.nn.Module,
        dataset: Dataset,
        rows: np.ndarray,
        draws: np.ndarray,
        optimiser: torch.optim.Optimizer,
        epoch: int,
    ) -> float:
        """Takes one optimiser step on this process's rows of a batch, in `train.accumulate` parts; returns the loss."""
        settings, device = self._settings, self._workers.device
        optimiser.zero_grad(set_to_none=True)
        parts = min(settings.accumulate, len(rows))
        total = 0.0
        for number in range(parts):
            part = slice(number * len(rows) // parts, (number + 1) * len(rows) // parts)
            inputs = dataset.inputs.batch(rows[part], draws[part] if settings.distort else None, device)
            targets = dataset.targets[torch.from_numpy(rows[part])].to(device)
            last = number == parts - 1  # gradients of the processes are averaged once
            with nullcontext() if last or not isinstance(model, DistributedDataParallel) else model.no_sync():
                with _autocast(settings, device):
                    outputs = model(inputs)
                loss = dataset.loss(outputs.float(), targets) * (len(rows[part]) / len(rows))
                if not torch.isfinite(loss):
                    raise DataError(
                        f"training: the loss is {loss.item()} in epoch {epoch + 1}; no model is written. "
                        f"Lower train.rate = {settings.rate}"
                    )
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        return total


@torch.no_grad()
def predict(
    network: Network, inputs: Inputs, rows: np.ndarray, device: str = "cpu", with_head: bool = True
) -> np.ndarray:
    """Outputs of a network, or of the layer below its head, for rows, int64 (n,), not augmented: float32 (n, dim)."""
    network.to(device).eval()
    model = network if with_head else network.embed
    starts = range(0, len(rows), _PREDICT_BATCH)
    parts = [model(inputs.batch(rows[start : start + _PREDICT_BATCH], None, device)).cpu() for start in starts]
    return torch.cat(parts).float().numpy() if parts else np.empty((0, 0), np.float32)


def _batch_size(configured: int, rows: int, processes: int) -> int:
    """The batch size: at most all rows, and equally many for each process."""
    size = min(configured, rows) // processes * processes
    if not size:
        raise UsageError(f"train.processes = {processes}: there are {rows} photos to train on; use fewer processes")
    return size


def _optimiser(settings: Train, network: Network) -> torch.optim.Optimizer:
    groups = network.parameter_groups(settings.rate, settings.rate_decay)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def _schedule(progress: float, warmup: float) -> float:
    """The learning rate's factor: linear warm-up, then cosine decay (Loshchilov and Hutter 2016)."""
    if progress < warmup:
        return (progress + 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _autocast(settings: Train, device: str) -> torch.autocast:
    """Mixed precision, where the settings or the device ask for it."""
    enabled = settings.precision == "bfloat16" or (settings.precision == "auto" and device.startswith("cuda"))
    return torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=enabled)


def _copy_weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
