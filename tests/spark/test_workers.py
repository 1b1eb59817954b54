"""Spark's Python workers between two tasks."""

import gc
import os
from collections.abc import Iterator

import pyarrow as pa

from likeness.settings import Settings
from likeness.spark.session import open_session
from likeness.spark.workers import in_workers

TOLD = pa.schema([("worker", pa.int64()), ("permanent", pa.int64())])


def test_what_is_left_of_a_first_task_is_not_walked_through_again():
    spark = open_session(Settings(), "test")

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        yield pa.RecordBatch.from_pylist([{"worker": os.getpid(), "permanent": gc.get_freeze_count()}], TOLD)

    def ask() -> dict[int, int]:
        rows = in_workers(spark.range(8).repartition(8), work, TOLD).collect()
        return {row.worker: row.permanent for row in rows}

    before, after = ask(), ask()
    again = before.keys() & after.keys()
    assert again
    assert all(after[worker] > 10_000 for worker in again)
