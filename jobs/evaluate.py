"""Evaluate a model on an evaluation set that it was not trained on."""

from likeness.spark.jobs import evaluate_job, job_command

if __name__ == "__main__":
    job_command(evaluate_job)
