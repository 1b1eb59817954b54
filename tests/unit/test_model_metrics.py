"""Figures of trained networks against what they are by definition."""

import numpy as np
import pytest

from likeness.catalog.samples import Labels
from likeness.core.statistics import softmax
from likeness.evaluation import model_metrics


def test_accuracy() -> None:
    logits = np.array([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3], [0, 3, 2, 1]])
    metrics = model_metrics.accuracy(logits, np.array([0, 2, 0, 1]))
    assert metrics["accuracy"].value == 0.5
    assert metrics["top3"].value == 0.75
    assert metrics["accuracy"].low < 0.5 < metrics["accuracy"].high


def test_confusion_and_classes() -> None:
    logits = np.eye(3)[[0, 0, 1, 2, 2, 2]]
    table = model_metrics.confusion(logits, np.array([0, 1, 1, 2, 2, 0]))
    assert table.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 2]]
    hat, dress, shoes = model_metrics.by_class(table, ["hat", "dress", "shoes"])
    assert (hat.photos, hat.precision.value, hat.recall.value) == (2, 0.5, 0.5)
    assert (dress.precision.value, dress.recall.value) == (1.0, 0.5)
    assert shoes.precision.value == pytest.approx(2 / 3)


def test_the_temperature_makes_class_scores_probabilities(rng: np.random.Generator) -> None:
    true = rng.standard_normal((4000, 5)) * 2
    truth = np.array([rng.choice(5, p=row) for row in softmax(true)])
    assert model_metrics.temperature(4 * true, truth) == pytest.approx(4, rel=0.1)
    _, before = model_metrics.calibration(softmax(4 * true), truth)
    bins, after = model_metrics.calibration(softmax(4 * true, model_metrics.temperature(4 * true, truth)), truth)
    assert after < 0.03 < 0.1 < before
    assert sum(one.photos for one in bins) == 4000


def test_average_precision() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    metrics = model_metrics.attributes(np.array([[4.0, -1], [3, -1], [2, -1], [1, -1]]), truth)
    assert metrics["map"].value == pytest.approx((1 + 2 / 3) / 2), "the attribute that no photo has does not count"
    assert metrics["right"].value == 6 / 8


def test_neighbours_come_from_what_was_learned_alone() -> None:
    gallery = np.eye(2, dtype=np.float32)[[0] * 6 + [1] * 6]
    queries = np.array([[1, 0.1], [1, 0.2], [0.1, 1]], np.float32)

    def labels(categories: list[str], start: int) -> Labels:
        return Labels(
            [frozenset([one]) for one in categories], [frozenset([str(start + n)]) for n in range(len(categories))]
        )

    metrics = model_metrics.neighbours(
        queries, labels(["hat", "dress", "dress"], 100), gallery, labels(["hat"] * 6 + ["dress"] * 6, 0)
    )
    assert metrics["p1"].value == pytest.approx(2 / 3)
    assert metrics["p10"].value == pytest.approx((0.6 + 0.4 + 0.6) / 3)


def test_iou() -> None:
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 1, 1], [0.2, 0.2, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4]])
    truth = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 1], [0.6, 0.6, 0.8, 0.8], [0, 0, 1, 1]])
    assert model_metrics.iou(boxes, truth).tolist() == pytest.approx([1, 0.5, 0, 0])
    metrics = model_metrics.boxes(np.c_[boxes, [[0.1, 0.1]] * 4], np.c_[truth, [[0.1, 0.4]] * 4])
    assert metrics["iou_over_half"].value == 0.25
    assert metrics["landmarks_away"].value == pytest.approx(0.3)
