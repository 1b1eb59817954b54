"""Put a version of a model in service, unless it is worse than the one in service."""

from likeness.spark.jobs import job_command, promote_job

if __name__ == "__main__":
    job_command(promote_job)
