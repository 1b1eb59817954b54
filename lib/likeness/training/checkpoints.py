"""Checkpoints: a training's state in, one safetensors file out, so that one that was killed goes on.   [torch]"""

import json
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from likeness import storage
from likeness.core.errors import DataError
from likeness.training.distributed import Workers
from likeness.training.history import Epoch, History

if TYPE_CHECKING:
    from likeness.training.network import Network

_IDLE_S = 7 * 86_400.0

State = dict[str, torch.Tensor]


class Checkpoint:
    """The state of one training at a URI, written every so many seconds; `identity` says what is trained."""

    def __init__(self, uri: str, every_s: float, identity: str) -> None:
        self._uri, self._every, self._identity = uri, every_s, identity
        self._files, self._last = storage.files(uri), time.monotonic()

    def due(self, ranks: Workers) -> bool:
        """Whether this process should write now; only the first of them does."""
        return ranks.first and time.monotonic() - self._last >= self._every

    def save(
        self, learner: "Network", optimiser: torch.optim.Optimizer, kept: State, course: History, at: tuple[int, int]
    ) -> None:
        """Writes where a training is: at this step of this epoch."""
        told = optimiser.state_dict()
        tensors = {f"now.{name}": value for name, value in learner.state_dict().items()}
        tensors |= {f"kept.{name}": value for name, value in kept.items()}
        numbers: dict[str, dict[str, float]] = {}
        for number, state in told["state"].items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimiser.{number}.{name}"] = value
                else:
                    numbers.setdefault(str(number), {})[name] = value
        facts = {
            "identity": self._identity,
            "at": at,
            "best": course.best,
            "epochs": [asdict(epoch) for epoch in course.epochs],
            "groups": told["param_groups"],
            "numbers": numbers,
        }
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        self._files.write(self._uri, save(plain, {"facts": json.dumps(facts)}))
        self._last = time.monotonic()

    def load(
        self, learner: "Network", optimiser: torch.optim.Optimizer, kept: State
    ) -> tuple[History, tuple[int, int]] | None:
        """Takes up what was written, if it is of the same training; where it was, by epoch and step.

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
            facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["facts"])
        except (SafetensorError, ValueError, KeyError) as error:
            raise DataError(f"checkpoint {self._uri} is damaged: {error}; delete it to begin anew") from None
        if facts["identity"] != self._identity:
            return None
        learner.load_state_dict({n.removeprefix("now."): v for n, v in tensors.items() if n.startswith("now.")})
        kept.update({n.removeprefix("kept."): v for n, v in tensors.items() if n.startswith("kept.")})
        state: dict[int, dict[str, object]] = {int(n): dict(v) for n, v in facts["numbers"].items()}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, key = rest.partition(".")
                state.setdefault(int(number), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": facts["groups"]})
        return History([Epoch(**one) for one in facts["epochs"]], facts["best"]), (facts["at"][0], facts["at"][1])

    def clear(self) -> None:
        """Deletes it: the training is over. Those that nobody went on with for a week go as well."""
        self._files.delete(self._uri)
        with suppress(FileNotFoundError):
            for file in list(self._files.walk(self._uri.rpartition("/")[0])):
                if file.mtime < (time.time() - _IDLE_S) * 1e6:
                    self._files.delete(file.uri)
