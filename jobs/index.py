"""Build and audit shards, without publishing them."""

from likeness.spark.jobs import door, index_job

if __name__ == "__main__":
    door(index_job)
