"""Training requests: what to train, besides the settings. Data only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingRequest:
    """A request to train a model; settings say all else.

    Args:
        task: one of TASKS.
        teacher: for distillation: the space whose vectors are the targets.
        scratch: the backbone starts from random weights.
        curve: numbers of training photos for a learning curve; 0 for all.
        against_scratch: the learning curve is also measured from random weights.
    """

    task: str = "category"
    teacher: str = ""
    scratch: bool = False
    curve: tuple[int, ...] = ()
    against_scratch: bool = False
