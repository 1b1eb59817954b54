"""The ceiling of extraction: the same decoding and runtime on every core, in one process each, without all else."""

import multiprocessing
import queue
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from likeness.backbones import resolve
from likeness.images import WHOLE, prepared
from likeness.runtimes import Machine, open_runtime
from likeness.settings import Settings


def rate(photos: list[Path], settings: Settings, workers: int) -> float:
    """Photos a second over all workers, after each has loaded its network and run a first batch."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(workers), context.Queue()
    shares = [photos[n::workers] for n in range(workers)]
    processes = [context.Process(target=_work, args=(share, settings, ready, results)) for share in shares]
    for process in processes:
        process.start()
    spans = []
    while len(spans) < workers:
        try:
            spans.append(results.get(timeout=5))
        except queue.Empty:
            assert not any(process.exitcode for process in processes), "a bare loop failed"
    for process in processes:
        process.join()
    return len(photos) / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _work(
    photos: list[Path], settings: Settings, ready: Barrier, results: "multiprocessing.Queue[tuple[float, float]]"
) -> None:
    space = resolve(settings.extract.space, settings.extract.weights)
    runtime = open_runtime(space, settings.extract.runtime, Machine(settings.extract.cache, 1))
    data = [path.read_bytes() for path in photos]

    def run(some: list[bytes]) -> int:
        size, done = settings.extract.batch_size, 0
        for start in range(0, len(some), size):
            batch = [prepared(one, WHOLE, space.preprocessing, settings.limits) for one in some[start : start + size]]
            done += len(runtime(np.stack(batch)))
        return done

    run(data[: settings.extract.batch_size])
    ready.wait()
    begin = time.time()
    done = run(data)
    results.put((begin, time.time()))
    assert done == len(photos)
