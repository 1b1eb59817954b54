"""Parallel search: some shards and queries in, the nearest rows of each shard out, on all cores.   [faiss]"""

import math
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import faiss
import numpy as np

from likeness.index.shard import LoadedShard, Near

_faiss: Any = faiss
_MIN_WORK = 1 << 22
"""Numbers to compare, queries x vectors x dimensions, below which threads cost more than they save."""
_UNEVEN = 1.25
"""Shards are as good as even if the largest takes at most this multiple of a thread's share of the work."""


def find_in_shards(
    shards: Sequence[LoadedShard], queries: np.ndarray, k: int, categories: Collection[str] | None = None
) -> list[Near]:
    """The k nearest images of each prepared query, float32 (q, dim), in each shard; see `LoadedShard.find`.

    A shard is searched by one thread, up to a shard a core at a time. Several queries in shards of very uneven size are
    left to FAISS, which searches one shard after the other with a thread for each query.
    """
    if not _pays([shard.record.vectors for shard in shards], queries.shape, threads()):
        return [shard.find(queries, k, categories) for shard in shards]
    nearest: dict[int, Near] = {}
    largest_first = iter(sorted(range(len(shards)), key=lambda number: -shards[number].record.vectors))

    def work() -> None:
        for number in largest_first:  # shared by the threads: each takes the next one
            nearest[number] = shards[number].find(queries, k, categories)

    for running in [_pool().submit(work) for _ in range(threads())]:
        running.result()
    return [nearest[number] for number in range(len(shards))]


def threads() -> int:
    """Threads that search at a time in this process: one a core, or OMP_NUM_THREADS."""
    return int(_faiss.omp_get_max_threads())


def _pays(vectors: Sequence[int], queries: tuple[int, ...], threads: int) -> bool:
    """Whether threads search shards of so many vectors faster than FAISS does one after the other."""
    if threads < 2 or len(vectors) < 2 or math.prod(queries) * sum(vectors) < _MIN_WORK:
        return False
    return queries[0] == 1 or max(vectors) * threads <= _UNEVEN * sum(vectors)


@cache
def _pool() -> ThreadPoolExecutor:
    """One pool for all builds of the process. FAISS keeps its number of threads by thread: here it is one."""
    return ThreadPoolExecutor(threads(), "shards", initializer=_faiss.omp_set_num_threads, initargs=(1,))
