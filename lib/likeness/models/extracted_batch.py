"""Batches of extracted vectors, and how the time of their extraction was spent."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from likeness.images.image import BadImage

Photos = Iterable[tuple[str, bytes]]
"""Keys and encoded photos."""
Timings = defaultdict[str, float]
"""Seconds by activity."""


@dataclass
class ExtractedBatch:
    """One batch: vectors float32 (n, dim) of the photos `keys`, and the photos that failed, with reasons."""

    keys: list[str] = field(default_factory=list)
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    failures: list[tuple[str, BadImage]] = field(default_factory=list)
    seconds: Timings = field(default_factory=lambda: defaultdict(float))
    """How the caller's time since the batch before was spent: `read`, waiting for `decode`, `model`."""


@contextmanager
def timed(timings: Timings, name: str) -> Iterator[None]:
    """Adds the duration of the body to the timings."""
    started = time.perf_counter()
    try:
        yield
    finally:
        timings[name] += time.perf_counter() - started


def timed_source(photos: Photos, timings: Timings) -> Iterator[tuple[str, bytes]]:
    """Yields the photos, and counts how long the source takes as `read`."""
    source = iter(photos)
    while True:
        with timed(timings, "read"):
            photo = next(source, None)
        if photo is None:
            return
        yield photo
