"""Statistics: samples and scores in; means, shares with their intervals, and probabilities out. Pure."""

from dataclasses import dataclass

import numpy as np

_RESAMPLED, _Z = 1000, 1.96


@dataclass(frozen=True)
class Figure:
    """A mean over queries, with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def share(good: int, of: int) -> Figure:
    """A share of so many, with the ends of its 95 % interval (Wilson 1927)."""
    if not of:
        return Figure(0.0, 0.0, 1.0)
    found, spare = good / of, _Z * _Z / of
    middle, reach = found + spare / 2, _Z * (found * (1 - found) / of + spare / (4 * of)) ** 0.5
    return Figure(found, (middle - reach) / (1 + spare), (middle + reach) / (1 + spare))


def softmax(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities, float64 (n, classes), of class scores."""
    shifted = scores.astype(np.float64) / temperature
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def figures(values: np.ndarray, seed: int = 0) -> list[Figure]:
    """Means of the columns of float64 (queries, n), n of them; queries are drawn again with replacement.

    Percentile bootstrap, Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    rng, count = np.random.default_rng(seed), len(values)
    drawn = np.array([values[rng.integers(0, count, count)].mean(axis=0) for _ in range(_RESAMPLED)])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return [Figure(*map(float, one)) for one in zip(values.mean(axis=0), low, high, strict=True)]
