"""Train a model on the catalogue, and measure it on photos that it never saw."""

from likeness.spark.jobs import train_command, train_job

if __name__ == "__main__":
    train_command(train_job)
