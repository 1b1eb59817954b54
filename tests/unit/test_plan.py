"""The shard plan: pure, whole and even."""

import hashlib
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from likeness.indexes.plan import PlannedShard, part_of, plan

SIZES = st.dictionaries(st.text(max_size=6), st.integers(1, 5000), max_size=30)


def test_a_plan() -> None:
    assert plan({"b/猫": 10, "a": 4, "c.d": 11}, 5) == [
        PlannedShard(0, "a", 0, 1),
        PlannedShard(1, "b/猫", 0, 2),
        PlannedShard(2, "b/猫", 1, 2),
        PlannedShard(3, "c.d", 0, 3),
        PlannedShard(4, "c.d", 1, 3),
        PlannedShard(5, "c.d", 2, 3),
    ]


@given(SIZES, st.integers(1, 3000))
def test_a_plan_covers_every_category(sizes: dict[str, int], most: int) -> None:
    shards = plan(sizes, most)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert {shard.category for shard in shards} == set(sizes)
    for category, size in sizes.items():
        parts = [shard for shard in shards if shard.category == category]
        assert [shard.part for shard in parts] == list(range(len(parts)))
        assert {shard.parts for shard in parts} == {len(parts)}
        assert size / len(parts) <= most
        assert len(parts) == 1 or size / (len(parts) - 1) > most  # not one more than is needed


@given(SIZES, st.integers(1, 3000), st.randoms(use_true_random=False))
def test_the_same_sizes_give_the_same_plan(sizes: dict[str, int], most: int, random: object) -> None:
    other = list(sizes.items())
    random.shuffle(other)  # type: ignore[attr-defined]
    before = dict(sizes)
    assert plan(sizes, most) == plan(dict(other), most)
    assert sizes == before


def image_ids(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


@given(st.integers(1, 1000), st.integers(0, 2**32 - 1))
def test_a_part_is_within_range_and_in_the_order_of_the_ids(parts: int, prefix: int) -> None:
    low, here, high = part_of("0" * 64, parts), part_of(f"{prefix:08x}" + "f" * 56, parts), part_of("f" * 64, parts)
    assert (low, high) == (0, parts - 1)
    assert here == math.floor(prefix / 2**32 * parts)


def test_parts_are_even() -> None:
    ids = image_ids(20_000)
    for parts in (2, 3, 7, 16):
        sizes = np.bincount([part_of(image_id, parts) for image_id in ids], minlength=parts)
        assert len(sizes) == parts
        expected = len(ids) / parts
        assert np.abs(sizes - expected).max() < 5 * math.sqrt(expected)
