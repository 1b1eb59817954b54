"""Update the tables from a source."""

from pathlib import Path

from likeness.spark.jobs import ingest_job, job_command

if __name__ == "__main__":
    job_command(ingest_job, sample=Path(__file__).parents[1] / "deploy" / "sample")
