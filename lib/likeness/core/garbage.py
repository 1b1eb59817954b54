"""Python's garbage collector, which looks for cycles among all objects of a process again and again."""

import functools
import gc

_ALLOCATIONS = 20_000
"""Objects more than before after which new ones are looked at; Python's own 700 is what one request makes."""


@functools.cache
def freeze_objects() -> None:
    """Exempts the objects of this process from garbage collection, once a process."""
    gc.collect()
    gc.freeze()


def collect_rarely() -> None:
    """Exempts the objects of a server that has started, and looks at new ones every few requests."""
    freeze_objects()
    gc.set_threshold(_ALLOCATIONS)
