"""Tag every photo with what the space's network takes it for."""

from likeness.spark.jobs import job_command, label_job

if __name__ == "__main__":
    job_command(label_job)
