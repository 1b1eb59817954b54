"""Binary codes of the kind `hamming`, trained on the vectors that they encode. numpy in, numpy out.   [faiss]"""

from typing import Any

import faiss
import numpy as np

from likeness.index.distance import faiss_metric, prepared
from likeness.index.kinds import KINDS

_WORD = 8


def encode(vectors: np.ndarray, metric: str = "cosine") -> np.ndarray:
    """Encodes vectors in bits as an index of the kind `hamming` does.

    Args:
        vectors: float32 (n, dim), as the layer gives them.
        metric: of the build, which says how vectors are prepared.

    Returns:
        uint64 (n, words): a bit for each of the axes, zeros after the last.
    """
    rows = prepared(vectors, metric)
    kind = KINDS["hamming"]
    index: Any = kind.make(rows[: kind.sample], len(rows), faiss_metric(metric))  # owns the index inside
    codes: np.ndarray = faiss.downcast_index(index.base_index).sa_encode(rows)
    return np.pad(codes, [(0, 0), (0, -codes.shape[1] % _WORD)]).view(np.uint64)


def hamming_distances(queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Hamming distances of codes: uint64 (q, words) against (n, words), int16 (q, n)."""
    distances = np.zeros((len(queries), len(codes)), np.int16)
    for query_words, code_words in zip(queries.T, codes.T, strict=True):
        distances += np.bitwise_count(query_words[:, None] ^ code_words)
    return distances
