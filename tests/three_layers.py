"""A network of three layers from first principles, in plain numpy: the oracle for the heads' gradients.

Two moons in, probabilities of two classes out: tanh, softmax, and back-propagation derived by hand
(docs/first-principles.md has the derivation).
"""

from dataclasses import dataclass

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]
ACTIVATIONS = {
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
    "relu": (lambda a: np.maximum(a, 0), lambda a: (a > 0).astype(a.dtype)),
    "elu": (
        lambda a: np.where(a > 0, a, np.expm1(np.minimum(a, 0))),
        lambda a: np.where(a > 0, 1, np.exp(a.clip(max=0))),
    ),
    "leaky": (lambda a: np.where(a > 0, a, 0.01 * a), lambda a: np.where(a > 0, 1.0, 0.01)),
}
"""Each with its derivative."""


def two_moons(count: int, noise: float, seed: int) -> Pair:
    """Points float64 (count, 2) on two half circles that reach into each other, and their classes, int64 (count,)."""
    rng = np.random.default_rng(seed)
    half = count // 2
    outer, inner = np.linspace(0, np.pi, half), np.linspace(0, np.pi, count - half)
    points = np.concatenate(
        [np.stack([np.cos(outer), np.sin(outer)], 1), np.stack([1 - np.cos(inner), 0.5 - np.sin(inner)], 1)]
    )
    return points + noise * rng.standard_normal(points.shape), np.repeat([0, 1], [half, count - half])


@dataclass
class ThreeLayers:
    """Weights (inputs, hidden) and (hidden, classes), and biases."""

    w1: np.ndarray
    b1: np.ndarray
    w2: np.ndarray
    b2: np.ndarray
    activation: str = "tanh"

    @classmethod
    def random(cls, inputs: int, hidden: int, classes: int, seed: int, activation: str = "tanh") -> "ThreeLayers":
        """Normal weights, divided by the root of the inputs of their layer; biases 0."""
        rng = np.random.default_rng(seed)
        w1 = rng.standard_normal((inputs, hidden)) / np.sqrt(inputs)
        w2 = rng.standard_normal((hidden, classes)) / np.sqrt(hidden)
        return cls(w1, np.zeros(hidden), w2, np.zeros(classes), activation)

    def probabilities(self, points: np.ndarray) -> np.ndarray:
        """Forward: float64 (n, classes)."""
        scores = ACTIVATIONS[self.activation][0](points @ self.w1 + self.b1) @ self.w2 + self.b2
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True))

    def loss(self, points: np.ndarray, classes: np.ndarray) -> float:
        """Mean cross-entropy."""
        return float(-np.log(self.probabilities(points)[np.arange(len(classes)), classes]).mean())

    def gradients(self, points: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, ...]:
        """Backward: of w1, b1, w2 and b2."""
        function, slope = ACTIVATIONS[self.activation]
        before = points @ self.w1 + self.b1
        hidden = function(before)
        wrong = self.probabilities(points)
        wrong[np.arange(len(classes)), classes] -= 1
        wrong /= len(classes)
        below = wrong @ self.w2.T * slope(before)
        return points.T @ below, below.sum(axis=0), hidden.T @ wrong, wrong.sum(axis=0)

    def learn(self, points: np.ndarray, classes: np.ndarray, steps: int, rate: float) -> None:
        """Gradient descent with all points in each step."""
        for _ in range(steps):
            for value, slope in zip((self.w1, self.b1, self.w2, self.b2), self.gradients(points, classes), strict=True):
                value -= rate * slope
