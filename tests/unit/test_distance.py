"""Metrics: against numpy in double precision, and their own definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from likeness.index import distance

VECTORS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 8), st.integers(1, 16)), elements=st.floats(-100, 100, width=32)
)


@given(VECTORS)
def test_cosine_is_prepared_to_length_one_and_zero_stays_zero(vectors: np.ndarray) -> None:
    ready = distance.prepared(vectors, "cosine")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for before, after, norm in zip(vectors, ready, norms, strict=True):
        if norm == 0:
            assert (after == 0).all()
        elif norm > 1e-10:
            assert np.linalg.norm(after.astype(np.float64)) == pytest.approx(1, abs=1e-5)
            assert np.allclose(after, before / norm, atol=1e-5)
    assert (ready.dtype, ready.flags.c_contiguous) == (np.float32, True)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_others_are_left_as_they_are(metric: str, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(5, 6))[:, ::2]
    ready = distance.prepared(vectors, metric)
    assert np.array_equal(ready, vectors.astype(np.float32))
    assert (ready.dtype, ready.flags.c_contiguous) == (np.float32, True)


def test_exact_scores(rng: np.random.Generator) -> None:
    queries, vectors = rng.standard_normal((4, 64), np.float32), rng.standard_normal((9, 64), np.float32)
    q, v = queries.astype(np.float64), vectors.astype(np.float64)
    truth = {
        "ip": q @ v.T,
        "cosine": q @ v.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(v, axis=1)[None],
        "l2": -np.linalg.norm(q[:, None] - v[None], axis=2),
    }
    for metric, expected in truth.items():
        ready = distance.prepared(queries, metric), distance.prepared(vectors, metric)
        scores = distance.exact_scores(*ready, metric)
        assert np.allclose(scores, expected, rtol=1e-5, atol=1e-5)
        assert scores.dtype == np.float32


def test_the_distance_to_itself_is_zero(rng: np.random.Generator) -> None:
    vectors = distance.prepared(rng.standard_normal((5, 8), np.float32), "l2")
    scores = distance.exact_scores(vectors, vectors, "l2")
    assert np.isfinite(scores).all()
    assert np.abs(np.diag(scores)).max() < 2e-3  # rounding, under a root


def test_distance() -> None:
    assert distance.distance(0.75, "cosine") == 0.25
    assert distance.distance(-3.0, "l2") == 3.0
    assert distance.distance(5.0, "ip") == -5.0
