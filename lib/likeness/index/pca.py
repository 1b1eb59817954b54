"""Principal axes of vectors: a seeded sample in, a linear transform out.   [faiss]

Randomised subspace iteration, after Halko, Martinsson and Tropp, "Finding structure with randomness" (2011).
The mean is not subtracted, so that inner products and cosines are preserved.
"""

import faiss
import numpy as np

SAMPLE = 4096
"""Rows of a sample that are used."""
_SPARE, _ITERATIONS = 16, 2
_STEP = 32


def principal_axes(
    sample: np.ndarray, most: int, share: float = 1.0, rotated: bool = False, seed: int = 0
) -> faiss.LinearTransform:
    """The transform to the directions in which a sample, float32 (n, dim), is longest.

    Args:
        sample: rows; give at least as many as there are axes.
        most: the highest number of axes; never more than `dim`.
        share: of the sample's squared length that is enough: fewer axes, by 32, are taken if they have it.
        rotated: rotates the result at random, which spreads the length evenly over the axes.
        seed: of the random numbers.
    """
    dim, sample = sample.shape[1], sample[:: -(-len(sample) // SAMPLE)]
    count = min(most, dim)
    rng = np.random.default_rng(seed)
    spread = sample @ rng.standard_normal((dim, min(dim, count + _SPARE)), np.float32)
    for _ in range(_ITERATIONS):
        spread = sample @ np.linalg.qr(sample.T @ np.linalg.qr(spread)[0])[0]
    basis = np.linalg.qr(spread)[0]
    _, lengths, axes = np.linalg.svd(basis.T @ sample, full_matrices=False)
    enough = np.cumsum(lengths[:count].astype(np.float64) ** 2) >= share * np.vdot(sample, sample)
    if share < 1 and enough.any():  # whether axes have the whole length is a matter of rounding
        count = min(count, _STEP * -(-(int(enough.argmax()) + 1) // _STEP))
    axes = axes[:count]
    if len(axes) < count:  # fewer rows than axes: any further directions do
        more = np.linalg.qr(np.concatenate([axes.T, rng.standard_normal((dim, count - len(axes)))], axis=1))[0].T
        axes = np.concatenate([axes, more[len(axes) :]])
    if rotated:
        axes = np.linalg.qr(rng.standard_normal((count, count)))[0] @ axes
    transform = faiss.LinearTransform(dim, count, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(axes, np.float32).ravel(), transform.A)
    transform.is_trained = transform.is_orthonormal = True
    return transform
