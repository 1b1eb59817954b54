"""Tag every photo with what the space's network takes it for."""

from likeness.spark.jobs import door, label_job

if __name__ == "__main__":
    door(label_job)
