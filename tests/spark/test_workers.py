"""Spark's Python workers between two tasks."""

import gc
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from likeness.core.settings import Settings
from likeness.spark.arrow_map import arrow_map
from likeness.spark.session import open_session
from likeness.spark.stages.extract_task import lengthen_time_slice

TOLD = pa.schema([("worker", pa.int64()), ("permanent", pa.int64())])


def test_what_is_left_of_a_first_task_is_not_walked_through_again():
    spark = open_session(Settings(), "test")

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            pass
        yield pa.RecordBatch.from_pylist([{"worker": os.getpid(), "permanent": gc.get_freeze_count()}], TOLD)

    def ask() -> dict[int, int]:
        rows = arrow_map(spark.range(8).repartition(8), work, TOLD).collect()
        return {row.worker: row.permanent for row in rows}

    before, after = ask(), ask()
    again = before.keys() & after.keys()
    assert again
    assert all(after[worker] > 10_000 for worker in again)


def turns() -> list[int]:
    """Nanoseconds for which the kernel lets a process that is started now run before others, if it says so."""
    text = subprocess.run(["cat", "/proc/self/sched"], capture_output=True, text=True, check=False).stdout
    return [int(one) for one in re.findall(r"^se\.slice +: +(\d+)$", text, re.MULTILINE)]


@pytest.mark.skipif(not turns(), reason="this kernel has no turns that a process may choose")
def test_what_a_worker_starts_has_long_turns():
    with ThreadPoolExecutor(1) as other:  # turns belong to a thread: this one keeps its own
        before = other.submit(turns).result()
        other.submit(lengthen_time_slice).result()
        assert other.submit(turns).result() == [20_000_000] > before
    assert turns() == before
