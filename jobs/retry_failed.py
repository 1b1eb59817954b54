"""Run nightly, and read and extract again the photos in the failure ledger."""

from pathlib import Path

from likeness.spark.jobs import job_command, retry_failed

if __name__ == "__main__":
    job_command(retry_failed, sample=Path(__file__).parents[1] / "deploy" / "sample")
