"""Ingest, extract, load, index, audit, publish, report."""

from pathlib import Path

from likeness.spark.jobs import door, nightly

if __name__ == "__main__":
    door(nightly, sample=Path(__file__).parents[1] / "deploy" / "sample")
