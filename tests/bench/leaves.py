"""What a query costs a root whose shards lie in many leaves: 50 leaves, 1,000 shards, 10,000 categories.

The leaves are real ones on Arrow Flight, in a few processes on this machine, and the shards are small: the figures are
of the root, the messages and the merging, not of the search.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
from tests.many_shards import publish_many

from likeness.core.settings import Serve
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.serving.fan_out import FanOut
from likeness.serving.leaf_client import RemoteLeaf
from likeness.serving.leaf_server import LeafServer
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams

from .rows import row

LEAVES, PROCESSES, SHARDS, CATEGORIES, VECTORS, DIM = 50, 2, 1000, 10_000, 16, 64
_QUERIES, _CLIENTS = 60, 8


def measure(scratch: Path) -> None:
    """One query at a time and eight at once, over all categories and over predicted ones."""
    manifest = publish_many(scratch / "leaves", SHARDS, CATEGORIES, VECTORS, DIM)
    with _leaves(scratch / "leaves") as addresses:
        leaves = [RemoteLeaf(address) for address in addresses]
        fan_out = FanOut(manifest, leaves, Serve(deadline_ms=10_000, hedge_ms=10_000), lambda line: None)
        fan_out.prepare()
        begun, before = time.perf_counter(), psutil.Process().memory_info().rss
        root = Root(manifest, fan_out)
        grown, took = (psutil.Process().memory_info().rss - before) / 1e6, time.perf_counter() - begun
        name = f"{LEAVES} leaves, {SHARDS:,} shards, {CATEGORIES:,} categories"
        row(
            f"{name}: sample that predicts categories",
            f"{took:.1f} s, {grown:+.0f} MB",
            "does not grow with categories",
        )
        for category in ("all", "auto"):
            search = _searcher(root, manifest, category)
            alone, (rate, p99) = _alone(search), _at_once(search)
            row(f"{name}: category={category}, p50", f"{alone:.1f} ms; {rate:.0f}/s, p99 {p99:.0f} ms at 8 clients", "")
        for leaf in leaves:
            leaf.close()


def _searcher(root: Root, manifest: Manifest, category: str) -> Callable[[int], int]:
    """Searches for a random vector by its number; returns how many shards have answered."""
    vectors = np.random.default_rng(7).standard_normal((_QUERIES, DIM), np.float32)

    def search(number: int) -> int:
        answer = root.search(vectors[number % _QUERIES], manifest.space, SearchParams(10, category))
        return answer.coverage.answered

    return search


def _alone(search: Callable[[int], int]) -> float:
    """Milliseconds of a query, one after the other."""
    for number in range(10):
        search(number)
    spans = []
    for number in range(_QUERIES):
        begun = time.perf_counter()
        search(number)
        spans.append(1000 * (time.perf_counter() - begun))
    return statistics.median(spans)


def _at_once(search: Callable[[int], int]) -> tuple[float, float]:
    """Queries a second of all clients, and the 99th percentile of their milliseconds."""
    spans = list[float]()

    def ask(number: int) -> None:
        begun = time.perf_counter()
        search(number)
        spans.append(1000 * (time.perf_counter() - begun))

    begun = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(ask, range(4 * _QUERIES)))
    return 4 * _QUERIES / (time.perf_counter() - begun), float(np.percentile(spans, 99))


@contextmanager
def _leaves(root: Path) -> Iterator[list[str]]:
    """All leaves, in a few processes; yields their addresses."""
    command = [sys.executable, "-m", "tests.bench.leaves", str(root), str(LEAVES // PROCESSES)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    try:
        yield [address for one in running if one.stdout for address in one.stdout.readline().split()]
    finally:
        for one in running:
            with suppress(subprocess.TimeoutExpired):
                one.communicate("\n", timeout=30)
            one.kill()


def _serve(root: str, count: int) -> None:
    """Leaves in this process, until a line comes in."""
    servers = [LeafServer(Builds(root), "127.0.0.1", 0, report=lambda line: None) for _ in range(count)]
    print(*(f"127.0.0.1:{server.port}" for server in servers), flush=True)
    sys.stdin.readline()
    for server in servers:
        server.shutdown()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
