"""Put the newest build of the space in service, if it passes its gates."""

from likeness.spark.jobs import job_command, publish_job

if __name__ == "__main__":
    job_command(publish_job)
