"""Put the tables' small files together, and let go of snapshots that nothing needs."""

from likeness.spark.jobs import compact_job, job_command

if __name__ == "__main__":
    job_command(compact_job)
