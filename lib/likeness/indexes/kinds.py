"""The table of index kinds: name to how it is made, what it costs, and how faithful it is.   [faiss]

To add a kind, add a row; nothing else changes.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import faiss

from likeness.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """One kind: `make(dim, faiss_metric)` gives an empty index, `bytes_per_vector(dim)` what a vector costs."""

    name: str
    doc: str
    make: Callable[[int, int], faiss.Index]
    bytes_per_vector: Callable[[int], int]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "flat",
            "exact, float32",
            lambda dim, metric: faiss.IndexFlat(dim, metric),
            lambda dim: 4 * dim + 8,
        ),
        Kind(
            "flat16",
            "exact scan over float16: half the memory, scores to about 1e-3",
            lambda dim, metric: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, metric),
            lambda dim: 2 * dim + 8,
        ),
    )
}


def kind(name: str) -> Kind:
    """A kind by name.

    Raises:
        UsageError: unknown; names the known ones.
    """
    if name in KINDS:
        return KINDS[name]
    near = difflib.get_close_matches(name, KINDS, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"index.kind = {name!r}: no such kind; {meant}known: {', '.join(KINDS)}")
