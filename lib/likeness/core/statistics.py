"""Means and shares with their confidence intervals, and the softmax of scores."""

from dataclasses import dataclass

import numpy as np

_RESAMPLED, _Z = 1000, 1.96


@dataclass(frozen=True)
class Figure:
    """A mean or a share, with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


def share(good: int, of: int) -> Figure:
    """The share `good / of` with its score interval (Wilson 1927)."""
    if not of:
        return Figure(0.0, 0.0, 1.0)
    rate, spread = good / of, _Z * _Z / of
    middle, reach = rate + spread / 2, _Z * (rate * (1 - rate) / of + spread / (4 * of)) ** 0.5
    return Figure(rate, (middle - reach) / (1 + spread), (middle + reach) / (1 + spread))


def softmax(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Turns class scores, (n, classes), into probabilities, float64 (n, classes)."""
    shifted = scores.astype(np.float64) / temperature
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def figures(values: np.ndarray, seed: int = 0) -> list[Figure]:
    """The mean of each column of float64 (queries, n), with its interval by the percentile bootstrap over queries.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    rng, count = np.random.default_rng(seed), len(values)
    drawn = np.array([values[rng.integers(0, count, count)].mean(axis=0) for _ in range(_RESAMPLED)])
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return [Figure(*map(float, one)) for one in zip(values.mean(axis=0), low, high, strict=True)]
