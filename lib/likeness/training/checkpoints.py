"""Checkpoints: the state of a training in, one safetensors file out; a killed training resumes from it.   [torch]"""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load, save

from likeness import storage
from likeness.core.errors import DataError
from likeness.models.training_report import Epoch
from likeness.storage.artifact import FrozenModel
from likeness.training.distributed import Workers
from likeness.training.history import History

if TYPE_CHECKING:
    from likeness.training.network import Network

_STALE_S = 7 * 86_400.0

Weights = dict[str, torch.Tensor]
Position = tuple[int, int]
"""An epoch, and a step in it."""


class _State(FrozenModel):
    """What a checkpoint has besides tensors."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    identity: str
    position: Position
    best: int
    epochs: Sequence[Epoch]


class Checkpoint:
    """The checkpoint of one training at a URI, written every so many seconds; `identity` identifies the training."""

    def __init__(self, uri: str, every_s: float, identity: str) -> None:
        self._uri, self._every, self._identity = uri, every_s, identity
        self._files, self._last = storage.files(uri), time.monotonic()

    def is_due(self, workers: Workers) -> bool:
        """Whether this process must write now; only the first process does."""
        return workers.is_first and time.monotonic() - self._last >= self._every

    def save(
        self,
        network: "Network",
        optimiser: torch.optim.Optimizer,
        best_weights: Weights,
        history: History,
        position: Position,
    ) -> None:
        """Writes the state of a training at a position."""
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in best_weights.items()}
        for number, values in optimiser.state_dict()["state"].items():  # all tensors; the groups follow from settings
            tensors |= {f"optimiser.{number}.{name}": value for name, value in values.items()}
        state = _State(identity=self._identity, position=position, best=history.best, epochs=history.epochs)
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        self._files.write(self._uri, save(contiguous, {"state": state.model_dump_json()}))
        self._last = time.monotonic()

    def load(
        self, network: "Network", optimiser: torch.optim.Optimizer, best_weights: Weights
    ) -> tuple[History, Position] | None:
        """Restores the state of the same training into the arguments; None if there is no checkpoint of it.

        Raises:
            DataError: the file is damaged.
        """
        try:
            data = self._files.read(self._uri)
        except FileNotFoundError:
            return None
        try:
            tensors = load(data)
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length])["__metadata__"]
            state = _State.model_validate_json(metadata["state"])
        except (SafetensorError, ValueError, KeyError) as error:
            raise DataError(f"checkpoint {self._uri} is damaged: {error}; delete it to start again") from None
        if state.identity != self._identity:
            return None
        network.load_state_dict(_with_prefix(tensors, "network."))
        best_weights.update(_with_prefix(tensors, "best."))
        by_parameter = defaultdict[int, Weights](dict)
        for name, value in _with_prefix(tensors, "optimiser.").items():
            number, _, key = name.partition(".")
            by_parameter[int(number)][key] = value
        optimiser.load_state_dict(optimiser.state_dict() | {"state": by_parameter})
        return History(list(state.epochs), state.best), state.position

    def clear(self) -> None:
        """Deletes the checkpoint of a finished training, and those that were not resumed for a week."""
        self._files.delete(self._uri)
        with suppress(FileNotFoundError):
            for file in list(self._files.walk(self._uri.rpartition("/")[0])):
                if file.mtime < (time.time() - _STALE_S) * 1e6:
                    self._files.delete(file.uri)


def _with_prefix(tensors: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
