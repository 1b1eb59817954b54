"""Delete builds, files and snapshots that nothing refers to."""

from likeness.spark.jobs import door, gc_job

if __name__ == "__main__":
    door(gc_job)
