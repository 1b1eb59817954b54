"""The number of photos of each extraction task."""

from hypothesis import given
from hypothesis import strategies as st

from likeness.spark.stages.pending import portions


@given(st.integers(0, 100_000), st.integers(1, 500))
def test_portions(photos: int, cores: int) -> None:
    sizes = portions(photos, cores)
    assert sum(sizes) == photos
    assert sizes == sorted(sizes, reverse=True)
    assert all(sizes)
    if sizes:
        assert sizes[0] <= max(16, photos / (8 * cores) + 1), "no task is a large part of the whole"
        assert sizes[-1] <= 16


@given(st.integers(1000, 100_000), st.integers(1, 64))
def test_all_cores_finish_at_nearly_the_same_time(photos: int, cores: int) -> None:
    """Also with cores of different speed: each takes the next task when it has finished one."""
    speeds = [1 + (core % 3) / 4 for core in range(cores)]
    ends = [0.0] * cores
    for portion in portions(photos, cores):
        first = min(range(cores), key=ends.__getitem__)
        ends[first] += portion / speeds[first]
    assert max(ends) - min(ends) <= 16
