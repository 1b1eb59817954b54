"""How good a trained network is: what it gives and what is true in, figures with intervals out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness.catalog.samples import Labels
from likeness.core.statistics import Figure, figures, share, softmax
from likeness.evaluation.retrieval_metrics import QuerySet, agreement, scores
from likeness.evaluation.retrieval_metrics import neighbours as nearest
from likeness.models.model_card import Metric

_BINS = 10
_GRID = np.exp(np.linspace(np.log(0.05), np.log(20.0), 241))


@dataclass(frozen=True)
class Class:
    """One class: photos of it, precision and recall."""

    name: str
    photos: int
    precision: Figure
    recall: Figure


@dataclass(frozen=True)
class Bin:
    """Photos that a network was about as sure of: how sure, and what share was right."""

    photos: int
    sure: float
    right: float


def as_metrics(found: Mapping[str, Figure]) -> dict[str, Metric]:
    """Figures as a card has them."""
    return {name: Metric(value=one.value, low=one.low, high=one.high) for name, one in found.items()}


def accuracy(logits: np.ndarray, truth: np.ndarray) -> dict[str, Figure]:
    """Shares of photos whose class, int64 (n,), is first or among the first three; Wilson intervals."""
    order = np.argsort(-logits, axis=1, kind="stable")
    ranks = (order == truth[:, None]).argmax(axis=1)
    return {"accuracy": share(int((ranks < 1).sum()), len(truth)), "top3": share(int((ranks < 3).sum()), len(truth))}


def confusion(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How often each class, by row, was taken for each, by column; int64 (classes, classes)."""
    count = logits.shape[1]
    return np.bincount(truth * count + logits.argmax(axis=1), minlength=count * count).reshape(count, count)


def by_class(table: np.ndarray, names: Sequence[str]) -> list[Class]:
    """Precision and recall of each class, of its confusions."""
    found = []
    for number, name in enumerate(names):
        right, said, there = int(table[number, number]), int(table[:, number].sum()), int(table[number].sum())
        found.append(Class(name, there, share(right, said), share(right, there)))
    return found


def temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """By what class scores are divided to be probabilities: where the likelihood is the largest.

    Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """
    rows = np.arange(len(truth))
    losses = [-np.log(softmax(logits, value)[rows, truth].clip(1e-12)).mean() for value in _GRID]
    return float(_GRID[int(np.argmin(losses))])


def calibration(probabilities: np.ndarray, truth: np.ndarray) -> tuple[list[Bin], float]:
    """Ten bins by how sure the network was, and the expected calibration error (Naeini et al. 2015)."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    places = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    bins = [
        Bin(int(mine.sum()), float(sure[mine].mean()), float(right[mine].mean()))
        for mine in (places == number for number in range(_BINS))
        if mine.any()
    ]
    return bins, sum(one.photos * abs(one.sure - one.right) for one in bins) / len(truth)


def attributes(logits: np.ndarray, truth: np.ndarray) -> dict[str, Figure]:
    """Mean average precision over attributes that some photos have, and the share of all that is told right."""
    right = (logits > 0) == truth
    return {"map": figures(average_precisions(logits, truth)[:, None])[0], "right": share(int(right.sum()), right.size)}


def average_precisions(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each attribute that some photo has: float64 (attributes,)."""
    some = np.flatnonzero(truth.any(axis=0))
    return np.array([_average_precision(logits[:, number], truth[:, number]) for number in some])


def _average_precision(found: np.ndarray, truth: np.ndarray) -> float:
    hits = truth[np.argsort(-found, kind="stable")]
    return float((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())


def neighbours(asked: np.ndarray, asked_of: Labels, known: np.ndarray, known_of: Labels) -> dict[str, Figure]:
    """P@10 and P@1 by the cosine: photos that ask, float32 (q, dim), answered by others, float32 (n, dim)."""
    ten, one = figures(agreeing(asked, asked_of, known, known_of))
    return {"p10": ten, "p1": one}


def agreeing(asked: np.ndarray, asked_of: Labels, known: np.ndarray, known_of: Labels) -> np.ndarray:
    """Of each photo that asks, P@10 and P@1: float64 (q, 2)."""
    every = np.concatenate([known, asked])
    rows = np.arange(len(known), len(every))
    labels = Labels([*known_of.categories, *asked_of.categories], [*known_of.products, *asked_of.products])
    queries = QuerySet(rows, [rows] * len(rows), len(every))
    found = nearest(scores(every, "cosine"), queries, 10)
    return agreement(labels, queries, found, (10, 1))


def boxes(found: np.ndarray, truth: np.ndarray) -> dict[str, Figure]:
    """Mean intersection over union of boxes, the share of them over one half, and landmarks' mean distance."""
    overlap = iou(found[:, :4], truth[:, :4])
    mean, half = figures(np.stack([overlap, overlap > 0.5], 1).astype(np.float64))
    told = {"iou": mean, "iou_over_half": half}
    if truth.shape[1] > 4:
        away = np.linalg.norm((found - truth)[:, 4:].reshape(len(truth), -1, 2), axis=2).mean(axis=1)
        told["landmarks_away"] = figures(away[:, None].astype(np.float64))[0]
    return told


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, (n, 4) of left, top, right and bottom each: float64 (n,)."""
    low, high = np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).clip(0).prod(axis=1) for box in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12), np.float64)
