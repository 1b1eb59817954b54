"""Preparing a training: a plan in; its data loaded, its photos decoded where they are needed, an experiment out.

[torch]
"""

from likeness.catalog.annotations import Annotation, annotations
from likeness.core.errors import GateError
from likeness.evaluation.evaluation_sets import EvaluationSets, exclude
from likeness.models.backbones import Space
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS
from likeness.training.data import TrainingData, load_training_data
from likeness.training.distributed import Workers
from likeness.training.experiment import Experiment
from likeness.training.image_cache import ImageCache
from likeness.training.plan import TrainingPlan
from likeness.training.progress_log import ProgressLogger
from likeness.training.tasks import TASKS


def prepare(plan: TrainingPlan, workers: Workers, log: ProgressLogger) -> Experiment:
    """Loads the data of a plan, decodes photos if it needs them, and leaves out those that cannot be used.

    Raises:
        DataError: there are too few photos, or a vector has NaN or infinity.
        UsageError: the settings do not fit the network.
        GateError: too many photos cannot be decoded.
    """
    settings, space = plan.settings.train, plan.space()
    tables = TableReader(plan.settings)
    train, evaluation = _split(plan, tables)
    data = load_training_data(tables, settings, plan.snapshots, plan.vectors_space(space), train, evaluation)
    task = TASKS[plan.request.task](data, settings)
    data = data.filter([task.is_usable(annotation) for annotation in data.annotations])
    images = None
    if not plan.uses_stored_vectors:
        images = _decode(plan, data, space, log)
        data = data.filter([key not in images.failures for key in data.image_ids])
    targets = task.targets(data)
    log.info(f"{data.train_count:,} photos to train on, {len(data.evaluation_rows):,} of {plan.evaluation_set}")
    return Experiment(plan, workers, space, task, data, targets, images)


def _split(plan: TrainingPlan, tables: TableReader) -> tuple[dict[str, Annotation], dict[str, Annotation]]:
    """The listed photos that may be trained on, and those of the evaluation set, by image_id."""
    evaluation_set = EvaluationSets(plan.settings.root).find(plan.evaluation_set)
    assert evaluation_set
    photos = annotations(tables, plan.snapshots[LISTINGS.name])
    evaluation = {key: photos.get(key, annotation) for key, annotation in evaluation_set.photos.items()}
    return exclude(photos, evaluation_set), evaluation


def _decode(plan: TrainingPlan, data: TrainingData, space: Space, log: ProgressLogger) -> ImageCache:
    images = ImageCache(plan.settings, data.image_ids, space.preprocessing, log.bar)
    rate, max_rate = len(images.failures) / len(data.image_ids), plan.settings.gates.max_failure_rate
    if rate > max_rate:
        image_id, reason = next(iter(images.failures.items()))
        raise GateError(
            f"train: {rate:.1%} of the photos cannot be decoded ({image_id}: {reason}), "
            f"gates.max_failure_rate is {max_rate:.1%}; nothing is trained"
        )
    return images
