"""Fill what is missing for a space over ingest dates."""

from likeness.spark.jobs import backfill, backfill_command

if __name__ == "__main__":
    backfill_command(backfill)
