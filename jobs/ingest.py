"""Bring the tables up to date with a source."""

from pathlib import Path

from likeness.spark.jobs import door, ingest_job

if __name__ == "__main__":
    door(ingest_job, sample=Path(__file__).parents[1] / "deploy" / "sample")
