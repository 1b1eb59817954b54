"""What becomes of memory that a process frees. With glibc; other C libraries are left as they are."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER, _TRIMMED, _MMAPS = -1, 128 << 10, 65536
"""No trimming; glibc's own trim threshold in bytes, and the arrays that it maps by themselves."""


def give_back(least: int) -> None:
    """Has arrays of at least so many bytes go back to the system as soon as they are freed.

    Else glibc learns to keep them, for each thread its own, and those of all sizes leave holes.
    """
    _set({_MMAP_THRESHOLD: least})


@contextmanager
def kept() -> Iterator[None]:
    """What is freed in the body stays with the process until the body ends.

    A step of training frees hundreds of MB that the next takes up again. As fresh pages of the system they cost as
    much time as the mathematics.
    """
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER})
    try:
        yield
    finally:
        _set({_MMAP_MAX: _MMAPS, _TRIM_THRESHOLD: _TRIMMED})
        if trim := _found("malloc_trim"):
            trim(0)


def _set(options: dict[int, int]) -> None:
    if mallopt := _found("mallopt"):
        for option, value in options.items():
            mallopt(option, value)


def _found(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
