"""Update the keyed store from the tables."""

from likeness.spark.jobs import job_command, load_job

if __name__ == "__main__":
    job_command(load_job)
