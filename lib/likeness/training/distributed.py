"""The processes that train one model together: this one's number, and what they exchange.   [torch]"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed.nn.functional import all_gather

_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Workers:
    """Process `mine` of `of`, and the device that its part of the work is done on."""

    mine: int = 0
    of: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.mine == 0

    def gathered(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows (n, ...) of all processes, in the order of these, with gradients; each has as many."""
        if self.of == 1:
            return rows
        return torch.cat(all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]

    def agreed(self, value: float) -> float:
        """The first process's value, in all of them."""
        if self.of == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(told, 0)
        return float(told.item())

    def wait(self) -> None:
        """Until all are here."""
        if self.of > 1:
            distributed.barrier()


@contextmanager
def joined() -> Iterator[Workers]:
    """The processes that torchrun's variables name; this one alone where there are none."""
    cuda = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers(device="cuda" if cuda else "cpu")
        return
    device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}" if cuda else "cpu"
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield Workers(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
