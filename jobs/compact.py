"""Merge the tables' small files, and delete snapshots that nothing refers to."""

from likeness.spark.jobs import compact_job, job_command

if __name__ == "__main__":
    job_command(compact_job)
