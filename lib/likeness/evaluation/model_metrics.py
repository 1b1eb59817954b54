"""Metrics of a trained network: its outputs and the truth in, figures with confidence intervals out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness.catalog.samples import Labels
from likeness.core.statistics import Figure, figures, share, softmax
from likeness.evaluation.retrieval_metrics import QuerySet, precision_at, scores
from likeness.evaluation.retrieval_metrics import neighbours as nearest
from likeness.models.model_card import Metric

_BINS = 10
_GRID = np.exp(np.linspace(np.log(0.05), np.log(20.0), 241))


@dataclass(frozen=True)
class Class:
    """One class: its number of photos, precision and recall."""

    name: str
    photos: int
    precision: Figure
    recall: Figure


@dataclass(frozen=True)
class Bin:
    """Photos of about the same confidence: their mean confidence (`sure`), and the share that was `right`."""

    photos: int
    sure: float
    right: float


def as_metrics(values: Mapping[str, Figure]) -> dict[str, Metric]:
    """Converts figures to those of a model card."""
    return {name: Metric(value=one.value, low=one.low, high=one.high) for name, one in values.items()}


def accuracy(logits: np.ndarray, truth: np.ndarray) -> dict[str, Figure]:
    """Top-1 and top-3 accuracy for true classes, int64 (n,), with Wilson intervals."""
    order = np.argsort(-logits, axis=1, kind="stable")
    ranks = (order == truth[:, None]).argmax(axis=1)
    return {"accuracy": share(int((ranks < 1).sum()), len(truth)), "top3": share(int((ranks < 3).sum()), len(truth))}


def confusion(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The confusion matrix, int64 (classes, classes): true classes by row, predicted ones by column."""
    count = logits.shape[1]
    return np.bincount(truth * count + logits.argmax(axis=1), minlength=count * count).reshape(count, count)


def by_class(table: np.ndarray, names: Sequence[str]) -> list[Class]:
    """Precision and recall of each class of a confusion matrix."""
    counts = zip(names, table.diagonal().tolist(), table.sum(axis=0).tolist(), table.sum(axis=1).tolist(), strict=True)
    return [
        Class(name, photos, share(right, predicted), share(right, photos)) for name, right, predicted, photos in counts
    ]


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature that calibrates class scores best, by likelihood.

    Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    rows = np.arange(len(truth))
    losses = [-np.log(softmax(logits, value)[rows, truth].clip(1e-12)).mean() for value in _GRID]
    return float(_GRID[int(np.argmin(losses))])


def calibration(probabilities: np.ndarray, truth: np.ndarray) -> tuple[list[Bin], float]:
    """Ten bins by confidence, and the expected calibration error (Naeini et al. 2015)."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    places = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    bins = [
        Bin(int(mine.sum()), float(sure[mine].mean()), float(right[mine].mean()))
        for mine in (places == number for number in range(_BINS))
        if mine.any()
    ]
    return bins, sum(one.photos * abs(one.sure - one.right) for one in bins) / len(truth)


def attributes(logits: np.ndarray, truth: np.ndarray) -> dict[str, Figure]:
    """Mean average precision over attributes that some photos have, and the share of all predictions that is right."""
    right = (logits > 0) == truth
    return {"map": figures(average_precisions(logits, truth)[:, None])[0], "right": share(int(right.sum()), right.size)}


def average_precisions(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Average precision of each attribute that some photo has, float64 (attributes,)."""
    present = np.flatnonzero(truth.any(axis=0))
    return np.array([_average_precision(logits[:, number], truth[:, number]) for number in present])


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    hits = truth[np.argsort(-scores, kind="stable")]
    return float((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())


def neighbours(queries: np.ndarray, query_labels: Labels, rows: np.ndarray, labels: Labels) -> dict[str, Figure]:
    """P@10 and P@1 by cosine of queries, float32 (q, dim), among other photos, float32 (n, dim)."""
    ten, one = figures(precisions(queries, query_labels, rows, labels))
    return {"p10": ten, "p1": one}


def precisions(queries: np.ndarray, query_labels: Labels, rows: np.ndarray, labels: Labels) -> np.ndarray:
    """P@10 and P@1 of each query, float64 (q, 2)."""
    every = np.concatenate([rows, queries])
    numbers = np.arange(len(rows), len(every))
    both = Labels([*labels.categories, *query_labels.categories], [*labels.products, *query_labels.products])
    query_set = QuerySet(numbers, [numbers] * len(numbers), len(every))
    return precision_at(both, query_set, nearest(scores(every, "cosine"), query_set, 10), (10, 1))


def boxes(predicted: np.ndarray, truth: np.ndarray) -> dict[str, Figure]:
    """Mean intersection over union of boxes, the share of them over one half, and landmarks' mean distance."""
    overlap = iou(predicted[:, :4], truth[:, :4])
    mean, half = figures(np.stack([overlap, overlap > 0.5], 1).astype(np.float64))
    metrics = {"iou": mean, "iou_over_half": half}
    if truth.shape[1] > 4:
        away = np.linalg.norm((predicted - truth)[:, 4:].reshape(len(truth), -1, 2), axis=2).mean(axis=1)
        metrics["landmarks_away"] = figures(away[:, None].astype(np.float64))[0]
    return metrics


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, (n, 4) of left, top, right and bottom each: float64 (n,)."""
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).clip(0).prod(axis=1) for box in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12), np.float64)
