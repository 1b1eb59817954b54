"""Delete builds, files and snapshots that nothing refers to."""

from likeness.spark.jobs import gc_job, job_command

if __name__ == "__main__":
    job_command(gc_job)
