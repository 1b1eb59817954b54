"""Train a model on the catalogue, and evaluate it on photos that it was not trained on."""

from likeness.spark.jobs import job_command, train_job

if __name__ == "__main__":
    job_command(train_job)
