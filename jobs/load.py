"""Bring the keyed store up to date with the tables."""

from likeness.spark.jobs import door, load_job

if __name__ == "__main__":
    door(load_job)
