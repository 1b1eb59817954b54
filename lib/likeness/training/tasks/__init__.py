"""Training tasks by name. A new task is a module here, and its name in TASKS."""

from collections.abc import Mapping

from likeness.training.tasks.attributes import Attributes
from likeness.training.tasks.boxes import Boxes
from likeness.training.tasks.category import Category
from likeness.training.tasks.distil import Distil
from likeness.training.tasks.metric import Metric
from likeness.training.tasks.task import Task

DISTIL = "distil"

TASKS: Mapping[str, type[Task]] = {
    "category": Category,
    "attributes": Attributes,
    "metric": Metric,
    "boxes": Boxes,
    DISTIL: Distil,
}
