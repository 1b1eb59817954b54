"""Loss functions: outputs of a network and targets in, the mean over the batch out.   [torch]"""

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from likeness.training.distributed import Workers

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Outputs, float32 (n, outputs), and the targets of the same rows to a scalar."""


def cross_entropy(weights: torch.Tensor | None = None, smoothing: float = 0.0) -> Loss:
    """Cross-entropy with label smoothing; targets are classes, int64 (n,); `weights` (classes,) balance."""
    return partial(F.cross_entropy, weight=weights, label_smoothing=smoothing)


def binary_cross_entropy(weights: torch.Tensor | None = None) -> Loss:
    """Binary cross-entropy of several labels; targets are 0 or 1, float32 (n, labels); `weights` are of the ones."""
    return partial(F.binary_cross_entropy_with_logits, pos_weight=weights)


def contrastive(workers: Workers, temperature: float) -> Loss:
    """Supervised contrastive loss of embeddings of length 1; targets are classes, int64 (n,).

    Khosla et al. 2020, "Supervised Contrastive Learning", L_out. Rows without another of their class add nothing.
    """

    def loss(embeddings: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        all_embeddings, all_classes = workers.all_gather(embeddings), workers.all_gather(classes)
        rows = torch.arange(len(embeddings), device=embeddings.device) + workers.rank * len(embeddings)
        scores = embeddings @ all_embeddings.T / temperature
        diagonal = F.one_hot(rows, len(all_embeddings)).bool()
        scores = scores.masked_fill(diagonal, -torch.inf)
        positive = (classes[:, None] == all_classes[None]) & ~diagonal
        log_probabilities = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(~positive, 0.0)
        return -(log_probabilities.sum(1) / positive.sum(1).clamp(min=1)).mean()

    return loss


def triplet(workers: Workers, margin: float = 0.2) -> Loss:
    """Triplet loss with batch-hard mining: the farthest positive must be nearer than the nearest negative, by a margin.

    Hermans et al. 2017, "In Defense of the Triplet Loss", over cosines; targets are classes, int64 (n,).
    """

    def loss(embeddings: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        all_embeddings, all_classes = workers.all_gather(embeddings), workers.all_gather(classes)
        scores = embeddings @ all_embeddings.T
        positive = classes[:, None] == all_classes[None]
        farthest = scores.masked_fill(~positive, torch.inf).amin(1)
        nearest = scores.masked_fill(positive, -torch.inf).amax(1)
        return F.relu(nearest - farthest + margin).mean()

    return loss


def distillation(workers: Workers) -> Loss:
    """Distillation: the direction of the teacher's vectors, float32 (n, outputs), and the cosines between rows.

    The second term is the relational distillation of Park et al. 2019, over cosines.
    """

    def loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        student, teacher = F.normalize(student), F.normalize(teacher)
        all_student, all_teacher = workers.all_gather(student), workers.all_gather(teacher)
        direction = 1 - (student * teacher).sum(1).mean()
        return direction + (student @ all_student.T - teacher @ all_teacher.T).square().mean()

    return loss


def regression(kind: str) -> Loss:
    """Regression of float32 (n, outputs): `l2`, or `smooth_l1` (Girshick 2015, "Fast R-CNN")."""
    return partial(F.smooth_l1_loss, beta=0.1) if kind == "smooth_l1" else F.mse_loss
