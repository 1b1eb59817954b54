"""Progress bar of a Spark job, by its finished tasks.   [pyspark]"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from likeness.core.progress import Bar
from likeness.spark.run import Run


@contextmanager
def track_tasks(run: Run, bar: Bar, done: float, amount: float) -> Iterator[None]:
    """Moves the bar from `done` to `done + amount` as the tasks of the Spark job in the body finish."""
    stop = threading.Event()
    tracker = run.tables.spark.sparkContext.statusTracker()

    def poll() -> None:
        while not stop.wait(0.5):
            for stage in tracker.getActiveStageIds():
                info = tracker.getStageInfo(stage)
                if info and info.numTasks > 1:
                    bar.at(done + amount * info.numCompletedTasks / info.numTasks)

    thread = threading.Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    bar.at(done + amount)
