"""Tag every photo with the classes that the space's network predicts."""

from likeness.spark.jobs import job_command, label_job

if __name__ == "__main__":
    job_command(label_job)
