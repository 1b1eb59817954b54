"""Spark's running tasks as a progress bar.   [pyspark]"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from likeness.core.progress import Bar
from likeness.spark.run import Run


@contextmanager
def watched(run: Run, bar: Bar, done: float, amount: float) -> Iterator[None]:
    """While the body runs one Spark job, moves the bar from `done` by the finished share of `amount`."""
    stop = threading.Event()
    tracker = run.tables.spark.sparkContext.statusTracker()

    def look() -> None:
        while not stop.wait(0.5):
            for stage in tracker.getActiveStageIds():
                info = tracker.getStageInfo(stage)
                if info and info.numTasks > 1:
                    bar.at(done + amount * info.numCompletedTasks / info.numTasks)

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    bar.at(done + amount)
