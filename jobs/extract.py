"""Extract every photo that the space lacks."""

from likeness.spark.jobs import door, extract_job

if __name__ == "__main__":
    door(extract_job)
