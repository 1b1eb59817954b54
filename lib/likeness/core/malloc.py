"""Options of glibc's malloc for memory that the process frees. With other C libraries nothing changes."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER, _TRIMMED, _MMAPS = -1, 128 << 10, 65536
"""Values of options: no trimming; glibc's default trim threshold in bytes, and its default number of mappings."""


def set_mmap_threshold(size: int) -> None:
    """Returns allocations of at least `size` bytes to the system as soon as they are freed.

    By default glibc raises this threshold by itself, keeps freed memory for each thread, and fragments it.
    """
    _set_options({_MMAP_THRESHOLD: size})


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keeps memory that is freed inside the `with` block for later allocations, until the block ends.

    A training step frees hundreds of MB that the next step allocates again. To get fresh pages from the system would
    take as long as the arithmetic.
    """
    _set_options({_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER})
    try:
        yield
    finally:
        _set_options({_MMAP_MAX: _MMAPS, _TRIM_THRESHOLD: _TRIMMED})
        if trim := _function("malloc_trim"):
            trim(0)


def _set_options(options: dict[int, int]) -> None:
    if mallopt := _function("mallopt"):
        for option, value in options.items():
            mallopt(option, value)


def _function(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
