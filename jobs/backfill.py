"""Extract the missing vectors of a space, optionally of some ingest dates or one category."""

from likeness.spark.jobs import backfill, job_command

if __name__ == "__main__":
    job_command(backfill)
