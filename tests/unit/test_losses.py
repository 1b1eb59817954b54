"""Losses against sums written out."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from likeness.training import losses
from likeness.training.distributed import Workers

ALONE = Workers()


@pytest.fixture
def rows(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Nine vectors of length 1, of three classes."""
    vectors = rng.standard_normal((9, 5))
    return torch.from_numpy(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)), torch.tensor(
        [0, 0, 0, 1, 1, 1, 1, 2, 0]
    )


def test_contrastive(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    vectors, classes = (one.numpy() for one in rows)
    total = 0.0
    for i, own in enumerate(classes):
        others = [j for j in range(9) if j != i]
        norm = np.log(sum(np.exp(vectors[i] @ vectors[j] / 0.3) for j in others))
        same = [vectors[i] @ vectors[j] / 0.3 - norm for j in others if classes[j] == own]
        total += -np.mean(same) if same else 0.0
    assert losses.contrastive(ALONE, 0.3)(*rows).item() == pytest.approx(total / 9)


def test_contrastive_is_low_where_classes_are_together_and_high_where_not() -> None:
    corners = F.normalize(torch.eye(3).repeat_interleave(4, 0) + 0.01)
    loss = losses.contrastive(ALONE, 0.1)
    together, mixed = (loss(corners, classes) for classes in (torch.arange(12) // 4, torch.arange(12) % 3))
    assert together < np.log(3) + 0.01
    assert mixed > together + 3


def test_triplet(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    vectors, classes = (one.numpy() for one in rows)
    cosines = vectors @ vectors.T
    each = []
    for i, own in enumerate(classes):
        farthest = min(cosines[i, j] for j in range(9) if classes[j] == own)
        nearest = max(cosines[i, j] for j in range(9) if classes[j] != own)
        each.append(max(0.0, nearest - farthest + 0.2))
    assert losses.triplet(ALONE)(*rows).item() == pytest.approx(np.mean(each))


def test_a_student_that_is_its_teacher_up_to_length_has_no_loss(rng: np.random.Generator) -> None:
    taught = torch.from_numpy(rng.standard_normal((8, 4)))
    loss = losses.distillation(ALONE)
    assert loss(3 * taught, taught).item() == pytest.approx(0, abs=1e-12)
    assert loss(-taught, taught).item() == pytest.approx(2), "which rows are like which is the same"
    assert loss(torch.roll(taught, 1, 0), taught).item() > 0.5


def test_rare_classes_count_as_much_when_they_are_balanced() -> None:
    targets = torch.tensor([0] * 9 + [1])
    wrong_about_one = torch.tensor([[2.0, -2.0]] * 10)
    weights = torch.tensor([10 / 2 / 9, 10 / 2 / 1])
    plain, balanced = (
        losses.cross_entropy()(wrong_about_one, targets),
        losses.cross_entropy(weights)(wrong_about_one, targets),
    )
    assert balanced > 3 * plain


@pytest.mark.parametrize(("kind", "expected"), [("l2", 4.0), ("smooth_l1", 1.95)])
def test_distances(kind: str, expected: float) -> None:
    assert losses.regression(kind)(torch.tensor([[2.0]]), torch.tensor([[0.0]])).item() == pytest.approx(expected)
