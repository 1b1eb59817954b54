"""Distance metrics: the meaning of `score` and `distance`. numpy in, numpy out.   [faiss]"""

import faiss
import numpy as np

_SHORT = 1e-15
"""Length below which squares may be too small for float32."""


def faiss_metric(metric: str) -> int:
    """FAISS's constant of a metric; cosine is the inner product of normalised vectors."""
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def prepared(vectors: np.ndarray, metric: str) -> np.ndarray:
    """Vectors as they are indexed and searched, float32 (n, dim): of length 1 for cosine (zero stays zero)."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if metric != "cosine":
        return vectors
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    extreme = ~((norms > _SHORT) & np.isfinite(norms))[:, 0]
    if not extreme.any():
        return np.asarray(vectors / norms)
    exact = norms.astype(np.float64)
    exact[extreme] = np.linalg.norm(vectors[extreme].astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(exact == 0, 1, exact)).astype(np.float32)


def without_direction(vectors: np.ndarray, metric: str) -> np.ndarray:
    """The numbers of the vectors, float32 (n, dim), that a metric cannot compare, int64 (m,).

    None can compare NaN and infinity. Zero has no direction, which cosine and inner product need. If squares are beyond
    float32, only cosine is defined.
    """
    with np.errstate(over="ignore"):
        zero, too_long = ~vectors.any(axis=1), ~np.isfinite(np.linalg.norm(vectors, axis=1))
    infinite = ~np.isfinite(vectors).all(axis=1)
    return np.flatnonzero({"cosine": zero | infinite, "ip": zero | too_long, "l2": too_long}[metric])


def exact_scores(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """Scores of prepared queries (q, dim) against prepared vectors (n, dim): float32 (q, n), higher is nearer."""
    dots: np.ndarray = queries @ vectors.T
    if metric != "l2":
        return dots
    squares = (queries**2).sum(1)[:, None] + (vectors**2).sum(1)[None, :] - 2 * dots
    return np.asarray(-np.sqrt(np.maximum(squares, 0)))


def distance(score: float, metric: str) -> float:
    """The answer's `distance`: 1 - cosine; the Euclidean distance for l2; minus the inner product for ip."""
    return 1 - score if metric == "cosine" else -score
