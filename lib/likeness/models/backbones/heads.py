"""Heads: the fully connected layers that are trained on the vectors of a network. Data only."""

from dataclasses import dataclass
from typing import Literal

Activation = Literal["relu", "elu", "leaky", "maxout"]


@dataclass(frozen=True)
class Head:
    """A head: fully connected layers on vectors of dimension `inputs`.

    Args:
        layer: name of its output: `logits`, `embedding` or `box`.
        inputs: dimension of its input.
        hidden: units of each hidden layer.
        outputs: dimension of its output.
        activation: of the hidden layers.
        unit: whether outputs are normalised to length 1.
    """

    layer: str
    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    activation: Activation = "relu"
    unit: bool = False
