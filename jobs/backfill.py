"""Extract the missing vectors of a space, optionally of some ingest dates or one category."""

from likeness.spark.jobs import backfill, backfill_command

if __name__ == "__main__":
    backfill_command(backfill)
