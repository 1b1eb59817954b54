"""Evaluate a model on an evaluation set that it was not trained on."""

from likeness.spark.jobs import evaluate_command, evaluate_job

if __name__ == "__main__":
    evaluate_command(evaluate_job)
