"""Evaluate: a version of a model and an evaluation set in, its figures kept beside the version out.   [pyspark]"""

import datetime

from likeness.evaluation.evaluation_sets import EvaluationSet
from likeness.models.model_card import Evaluation, ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.spark.run import Run
from likeness.spark.stages.extract import extract
from likeness.storage.run_facts import EvaluateFacts
from likeness.training.evaluate_model import evaluate_model, measured_by_neighbours


def evaluate(run: Run, card: ModelCard, held: EvaluationSet) -> Evaluation:
    """Measures a version of the run's space.

    Raises:
        DataError: it has learned from photos of the set.
    """
    if measured_by_neighbours(card):
        extract(run)
    with run.stage(EvaluateFacts) as facts:
        metrics = evaluate_model(run.settings, card, held, run.space)
        now = datetime.datetime.now(datetime.UTC)
        found = Evaluation(evaluation=held.id, metrics=metrics, made=now, run_id=run.run_id)
        ModelRegistry(run.settings.root).add(card, found)
        facts.model, facts.version, facts.evaluation = card.name, card.version, held.id
        facts.metrics = {name: metric.value for name, metric in metrics.items()}
    return found
