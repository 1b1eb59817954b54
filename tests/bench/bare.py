"""The ceiling of extraction: the same decoder and runtime on every core, without Spark, tables or files."""

import itertools
import multiprocessing
import queue
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from likeness.backbones import resolve
from likeness.features import Extractor
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
    extractor = Extractor(space, runtime, settings.extract, settings.limits)
    data = [(path.name, path.read_bytes()) for path in photos]
    for _ in extractor.run(itertools.islice(data, settings.extract.batch_size)):
        pass
    ready.wait()
    begin = time.time()
    done = sum(len(batch.keys) for batch in extractor.run(iter(data)))
    results.put((begin, time.time()))
    assert done == len(photos)
