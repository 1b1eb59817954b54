"""Evaluate: a version of a model and an evaluation set in, its metrics out, saved with the version.   [pyspark]"""

import datetime

from likeness.evaluation.evaluation_sets import EvaluationSet
from likeness.models.model_card import Evaluation, ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.spark.run import Run
from likeness.spark.stages.extract import extract
from likeness.storage.run_facts import EvaluateFacts
from likeness.training.evaluate_model import evaluate_model, measured_by_neighbours


def evaluate(run: Run, card: ModelCard, evaluation_set: EvaluationSet) -> Evaluation:
    """Measures a version of a model on an evaluation set, and saves the metrics with the version.

    Raises:
        DataError: the version was trained on photos of the set.
    """
    if measured_by_neighbours(card):
        extract(run)
    with run.stage(EvaluateFacts) as facts:
        metrics = evaluate_model(run.settings, card, evaluation_set, run.space)
        now = datetime.datetime.now(datetime.UTC)
        evaluation = Evaluation(evaluation=evaluation_set.id, metrics=metrics, created=now, run_id=run.run_id)
        ModelRegistry(run.settings.root).add_evaluation(card, evaluation)
        facts.model, facts.version, facts.evaluation = card.name, card.version, evaluation_set.id
        facts.metrics = {name: metric.value for name, metric in metrics.items()}
    return evaluation
