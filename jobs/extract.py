"""Extract every photo without a vector in the space."""

from likeness.spark.jobs import extract_job, job_command

if __name__ == "__main__":
    job_command(extract_job)
