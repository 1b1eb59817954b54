"""What extraction's workers keep in memory over many photos."""

import threading
import time
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import psutil

from likeness.core.settings import load_settings
from likeness.spark import jobs

from .photos import variants
from .rows import row

COUNT = 20_000
_EVERY_S = 1.0


def measure(photos: Path, scratch: Path, plots: Path) -> None:
    """Resident memory of each Python worker with its decoder, over one commit of all photos; the plot beside it."""
    source = variants(photos, scratch / f"photos-{COUNT}", COUNT)
    flags, sets = {"source.uri": str(source), "root": str(scratch / "memory")}, ["gates.max_failure_rate=1"]
    settings = load_settings(None, flags, sets)
    jobs.ingest_job(settings)
    seen, stop = defaultdict[int, list[tuple[float, float]]](list), threading.Event()

    def watch() -> None:
        begun = time.monotonic()
        while not stop.wait(_EVERY_S):
            for pid, size in _workers().items():
                seen[pid].append((time.monotonic() - begun, size))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        jobs.extract_job(settings)
    finally:
        stop.set()
        thread.join()
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    growth = []
    for number, sizes in enumerate(seen.values(), 1):
        axes.plot(*zip(*sizes, strict=True), label=f"worker {number} and its decoder")
        fifth = len(sizes) // 5
        first, last = max(size for _, size in sizes[:fifth]), max(size for _, size in sizes[-fifth:])
        growth.append(f"{first:.0f} MB in the first fifth, {last:.0f} MB in the last ({last - first:+.0f} MB)")
    axes.set(xlabel="seconds", ylabel="resident MB", ylim=(0, None), title=f"extraction of {COUNT:,} photos")
    axes.legend()
    path = plots / "extraction-memory.png"
    figure.savefig(path, dpi=100)
    row(f"a worker's largest memory over {COUNT:,} photos ({path})", "; ".join(growth), "does not grow")


def _workers() -> dict[int, float]:
    """MB of Spark's Python workers that have a decoder, which is their child, with it."""
    sizes = {}
    for one in psutil.Process().children(recursive=True):
        try:
            if "likeness.images.decoder_worker" in one.cmdline():
                parent = one.parent()
                if parent:
                    sizes[parent.pid] = (parent.memory_info().rss + one.memory_info().rss) / 1e6
        except psutil.Error:
            continue
    return sizes
