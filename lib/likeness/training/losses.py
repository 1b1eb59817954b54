"""What training lowers: outputs of a network and what they ought to be in, a mean over the batch out.   [torch]"""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from likeness.training.distributed import Workers

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""float32 (n, outputs) and the targets of the same rows to a number."""


def cross_entropy(weights: torch.Tensor | None = None, smoothing: float = 0.0) -> Loss:
    """For classes of which one holds, int64 (n,); `weights`, float32 (classes,), balances them."""
    return partial(F.cross_entropy, weight=weights, label_smoothing=smoothing)


def binary(weights: torch.Tensor | None = None) -> Loss:
    """For attributes of which any may hold, float32 (n, classes) of 0 and 1; `weights` are those of the ones."""
    return partial(F.binary_cross_entropy_with_logits, pos_weight=weights)


def contrastive(ranks: Workers, temperature: float) -> Loss:
    """Vectors of length 1 of a class, int64 (n,), to each other, away from all else.

    Khosla et al. 2020, "Supervised Contrastive Learning", L_out. Rows without another of their class count nothing.
    """

    def loss(found: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        every, labels = ranks.gathered(found), ranks.gathered(classes)
        mine = torch.arange(len(found), device=found.device) + ranks.mine * len(found)
        scores = found @ every.T / temperature
        itself = F.one_hot(mine, len(every)).bool()
        scores = scores.masked_fill(itself, -torch.inf)
        same = (classes[:, None] == labels[None]) & ~itself
        logs = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(~same, 0.0)
        return -(logs.sum(1) / same.sum(1).clamp(min=1)).mean()

    return loss


def triplet(ranks: Workers, margin: float = 0.2) -> Loss:
    """The farthest of the same class nearer than the nearest of another, by a margin of the cosine.

    Hermans et al. 2017, "In Defense of the Triplet Loss", batch hard.
    """

    def loss(found: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        every, labels = ranks.gathered(found), ranks.gathered(classes)
        scores = found @ every.T
        same = classes[:, None] == labels[None]
        farthest = scores.masked_fill(~same, torch.inf).amin(1)
        nearest = scores.masked_fill(same, -torch.inf).amax(1)
        return F.relu(nearest - farthest + margin).mean()

    return loss


def likeness_of(ranks: Workers) -> Loss:
    """Vectors to those of a teacher, float32 (n, outputs): by direction, and by which rows are like which.

    The second is the relational distillation of Park et al. 2019, over cosines.
    """

    def loss(found: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        found, taught = F.normalize(found), F.normalize(taught)
        every, known = ranks.gathered(found), ranks.gathered(taught)
        direction = 1 - (found * taught).sum(1).mean()
        return direction + (found @ every.T - taught @ known.T).square().mean()

    return loss


def distance(kind: str) -> Loss:
    """Numbers to numbers, float32 (n, outputs): `l2`, or `smooth_l1` (Girshick 2015, "Fast R-CNN")."""
    return partial(F.smooth_l1_loss, beta=0.1) if kind == "smooth_l1" else F.mse_loss
