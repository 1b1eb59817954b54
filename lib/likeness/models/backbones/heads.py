"""What is put on top of a network that is trained here. Data only."""

from dataclasses import dataclass
from typing import Literal, get_args

Activation = Literal["relu", "elu", "leaky", "maxout"]
ACTIVATIONS = get_args(Activation)


@dataclass(frozen=True)
class Head:
    """Fully connected layers on a vector of `inputs` numbers; `unit`: what they give has length 1.

    `layer` names what they give: logits, embedding or box.
    """

    layer: str
    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    activation: Activation = "relu"
    unit: bool = False
