"""What is asked of a training beside its settings. Data only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingRequest:
    """One training.

    Args:
        task: one of TASKS, or `distil`.
        teacher: distil: the space whose vectors are learned.
        scratch: the backbone's weights are forgotten.
        curve: so many photos are learned from as well, one after the other; 0 for all.
        against_scratch: the curve is compared with that of a network that knows nothing.
    """

    task: str = "category"
    teacher: str = ""
    scratch: bool = False
    curve: tuple[int, ...] = ()
    against_scratch: bool = False
