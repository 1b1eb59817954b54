"""Options of glibc's malloc for memory that the process frees. With other C libraries nothing changes."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 4 << 20
"""Bytes of an array whose memory servers return as soon as it is freed; a leaf grew by 30 MB a swap without."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER, _TRIMMED, _MMAPS = -1, 128 << 10, 65536
"""Values of options: no trimming; glibc's default trim threshold in bytes, and its default number of mappings."""


def set_mmap_threshold(size: int) -> None:
    """Returns allocations of at least `size` bytes to the system as soon as they are freed.

    By default glibc raises this threshold by itself, keeps freed memory for each thread, and fragments it.
    """
    _call("mallopt", _MMAP_THRESHOLD, size)


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keeps memory that is freed inside the `with` block for later allocations, until the block ends.

    A training step frees hundreds of MB that the next step allocates again. To get fresh pages from the system would
    take as long as the arithmetic.
    """
    _call("mallopt", _MMAP_MAX, 0)
    _call("mallopt", _TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        _call("mallopt", _MMAP_MAX, _MMAPS)
        _call("mallopt", _TRIM_THRESHOLD, _TRIMMED)
        _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    if sys.platform == "linux" and (function := getattr(ctypes.CDLL(None), name, None)):
        function(*values)
