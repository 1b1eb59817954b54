"""Ingest, extract, load, index, audit, publish, report."""

from pathlib import Path

from likeness.spark.jobs import job_command, nightly

if __name__ == "__main__":
    job_command(nightly, sample=Path(__file__).parents[1] / "deploy" / "sample")
