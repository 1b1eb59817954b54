"""Distributed training: the processes that train one model together, and what they exchange.   [torch]"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed
from torch.distributed.nn.functional import all_gather

_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Workers:
    """The process group: this process's rank, the number of processes, and the device of this process."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this process logs and writes for all."""
        return self.rank == 0

    def all_gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Concatenates the rows (n, ...) of all processes by rank, with gradients; each process has equally many."""
        if self.world_size == 1:
            return rows
        return torch.cat(all_gather(rows.contiguous()))  # type: ignore[no-untyped-call]

    def broadcast(self, value: float) -> float:
        """Returns the first process's value in all processes."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(tensor, 0)
        return float(tensor.item())


@contextmanager
def join_workers() -> Iterator[Workers]:
    """Joins the process group that torchrun's variables describe; without them this process is alone."""
    cuda = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers(device="cuda" if cuda else "cpu")
        return
    device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}" if cuda else "cpu"
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
    try:
        yield Workers(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
