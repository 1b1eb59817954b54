"""How a training went, epoch by epoch. Data only."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """What one pass over so many photos gave; `judged` is not a number where nobody judges."""

    loss: float
    judged: float
    seconds: float
    photos: int


@dataclass
class History:
    """How a training went; the network is that of `best`, counted from 0, or of the last epoch if nobody judges."""

    epochs: list[Epoch] = field(default_factory=list)
    best: int = -1
