"""The main axes of vectors: a seeded sample in, a linear transform out.   [faiss]

Randomised subspace iteration, after Halko, Martinsson and Tropp, "Finding structure with randomness" (2011).
The mean is not taken off, so that inner products, and with them cosines, are kept.
"""

import faiss
import numpy as np

SAMPLE = 4096
"""Rows of a sample that are looked at."""
_SPARE, _TURNS = 16, 2
_STEP = 32


def principal_axes(
    sample: np.ndarray, most: int, share: float = 1.0, rotated: bool = False, seed: int = 0
) -> faiss.LinearTransform:
    """The transform to the directions in which a sample, float32 (n, dim), is longest.

    Args:
        sample: rows; as many as there are axes at least make the result meaningful.
        most: axes at most; never more than `dim`.
        share: of the sample's squared length that is enough; fewer axes, by 32, are taken if they have it.
        rotated: turns the result at random, which spreads the length evenly over the axes.
        seed: of the random numbers.
    """
    dim, sample = sample.shape[1], sample[:: -(-len(sample) // SAMPLE)]
    wanted = min(most, dim)
    rng = np.random.default_rng(seed)
    spread = sample @ rng.standard_normal((dim, min(dim, wanted + _SPARE)), np.float32)
    for _ in range(_TURNS):
        spread = sample @ np.linalg.qr(sample.T @ np.linalg.qr(spread)[0])[0]
    basis = np.linalg.qr(spread)[0]
    _, lengths, found = np.linalg.svd(basis.T @ sample, full_matrices=False)
    held = np.cumsum(lengths[:wanted].astype(np.float64) ** 2) >= share * np.vdot(sample, sample)
    if share < 1 and held.any():  # all of it is a matter of rounding
        wanted = min(wanted, _STEP * -(-(int(held.argmax()) + 1) // _STEP))
    found = found[:wanted]
    if len(found) < wanted:  # fewer rows than axes: any further directions do
        more = np.linalg.qr(np.concatenate([found.T, rng.standard_normal((dim, wanted - len(found)))], axis=1))[0].T
        found = np.concatenate([found, more[len(found) :]])
    if rotated:
        found = np.linalg.qr(rng.standard_normal((wanted, wanted)))[0] @ found
    transform = faiss.LinearTransform(dim, wanted, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(found, np.float32).ravel(), transform.A)
    transform.is_trained = transform.is_orthonormal = True
    return transform
