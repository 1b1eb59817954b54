"""The ceiling of extraction: the same decoding and runtime on every core, in one process each, without all else."""

import multiprocessing
import queue
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from likeness.core.settings import Settings
from likeness.images.image import WHOLE, preprocess
from likeness.models.backbones import resolve
from likeness.models.runtimes import local_machine, open_runtime


def rate(photos: list[Path], settings: Settings, workers: int) -> float:
    """Photos a second over all workers, after each has loaded its network and run a first batch."""
    return vectors(photos, settings, workers)[1]


def vectors(photos: list[Path], settings: Settings, workers: int) -> tuple[np.ndarray, float]:
    """The vectors of the photos, float32 (n, dim), and photos a second."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(workers), context.Queue()
    shares = [photos[n::workers] for n in range(workers)]
    processes = [
        context.Process(target=_work, args=(number, share, settings, ready, results))
        for number, share in enumerate(shares)
    ]
    for process in processes:
        process.start()
    extracted: dict[int, np.ndarray] = {}
    spans = []
    while len(extracted) < workers:
        try:
            number, block, begin, end = results.get(timeout=5)
            extracted[number] = block
            spans.append((begin, end))
        except queue.Empty:
            assert not any(process.exitcode for process in processes), "a bare loop failed"
    for process in processes:
        process.join()
    rows = np.empty((len(photos), extracted[0].shape[1]), np.float32)
    for number, block in extracted.items():
        rows[number::workers] = block
    return rows, len(photos) / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _work(
    number: int,
    photos: list[Path],
    settings: Settings,
    ready: Barrier,
    results: "multiprocessing.Queue[tuple[int, np.ndarray, float, float]]",
) -> None:
    space = resolve(settings.extract.space, settings.extract.weights)
    runtime = open_runtime(space, settings.extract.runtime, local_machine(settings, 1))
    data = [path.read_bytes() for path in photos]

    def run(photos: list[bytes]) -> np.ndarray:
        size, batches = settings.extract.batch_size, []
        for start in range(0, len(photos), size):
            batch = [
                preprocess(photo, WHOLE, space.preprocessing, settings.limits) for photo in photos[start : start + size]
            ]
            batches.append(runtime(np.stack(batch)))
        return np.concatenate(batches)

    run(data[: settings.extract.batch_size])
    ready.wait()
    begin = time.time()
    mine = run(data)
    results.put((number, mine, begin, time.time()))
