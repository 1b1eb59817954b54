"""Extract every photo that the space lacks."""

from likeness.spark.jobs import extract_job, job_command

if __name__ == "__main__":
    job_command(extract_job)
