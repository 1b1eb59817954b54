"""The bits of the Hamming kind, trained on the very vectors that they are made of. numpy in, numpy out.   [faiss]"""

from typing import Any

import faiss
import numpy as np

from likeness.index.distance import faiss_metric, prepared
from likeness.index.kinds import kind

_WORD = 8


def bits(vectors: np.ndarray, metric: str = "cosine") -> np.ndarray:
    """The codes by which an index of the kind `hamming` finds candidates among these vectors.

    Args:
        vectors: float32 (n, dim), as the layer gives them.
        metric: of the build, which says how vectors are prepared.

    Returns:
        uint64 (n, words): a bit for each of the axes, zeros after the last.
    """
    rows = prepared(vectors, metric)
    hamming = kind("hamming")
    index: Any = hamming.make(rows[: hamming.sample], len(rows), faiss_metric(metric))  # owns what is taken out of it
    codes: np.ndarray = faiss.downcast_index(index.base_index).sa_encode(rows)
    return np.pad(codes, [(0, 0), (0, -codes.shape[1] % _WORD)]).view(np.uint64)


def hamming(queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """How many bits differ: uint64 (q, words) against (n, words), int16 (q, n)."""
    apart = np.zeros((len(queries), len(codes)), np.int16)
    for mine, theirs in zip(queries.T, codes.T, strict=True):
        apart += np.bitwise_count(mine[:, None] ^ theirs)
    return apart
