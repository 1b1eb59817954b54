"""The main axes of vectors: a seeded sample in, a linear transform out.   [faiss]

Randomised subspace iteration, after Halko, Martinsson and Tropp, "Finding structure with randomness" (2011).
The mean is not taken off, so that inner products, and with them cosines, are kept.
"""

import faiss
import numpy as np

_SPARE, _TURNS = 16, 2


def main_axes(sample: np.ndarray, axes: int, rotated: bool = False, seed: int = 0) -> faiss.LinearTransform:
    """The transform to the `axes` directions in which a sample, float32 (n, dim), is longest.

    Args:
        sample: rows; as many as there are axes at least make the result meaningful.
        axes: how many at most; never more than `dim`.
        rotated: turns the result at random, which spreads the length evenly over the axes.
        seed: of the random numbers.
    """
    dim = sample.shape[1]
    wanted = min(axes, dim)
    rng = np.random.default_rng(seed)
    spread = sample @ rng.standard_normal((dim, min(dim, wanted + _SPARE)), np.float32)
    for _ in range(_TURNS):
        spread = sample @ np.linalg.qr(sample.T @ np.linalg.qr(spread)[0])[0]
    basis = np.linalg.qr(spread)[0]
    found = np.linalg.svd(basis.T @ sample, full_matrices=False)[2][:wanted]
    if len(found) < wanted:  # fewer rows than axes: any further directions do
        more = np.linalg.qr(np.concatenate([found.T, rng.standard_normal((dim, wanted - len(found)))], axis=1))[0].T
        found = np.concatenate([found, more[len(found) :]])
    if rotated:
        found = np.linalg.qr(rng.standard_normal((wanted, wanted)))[0] @ found
    transform = faiss.LinearTransform(dim, wanted, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(found, np.float32).ravel(), transform.A)
    transform.is_trained = transform.is_orthonormal = True
    return transform
