"""Put the tables' small files together, and let go of snapshots that nothing needs."""

from likeness.spark.jobs import compact_job, door

if __name__ == "__main__":
    door(compact_job)
