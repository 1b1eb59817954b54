"""Build and audit shards, without publishing them."""

from likeness.spark.jobs import index_job, job_command

if __name__ == "__main__":
    job_command(index_job)
