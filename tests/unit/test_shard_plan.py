"""The shard plan: pure, whole and even."""

import hashlib
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from likeness.index.shard_plan import PlannedShard, assign_tasks, part_of, plan_delta, plan_shards

SIZES = st.dictionaries(st.text(max_size=6), st.integers(1, 5000), max_size=30)


def test_a_plan() -> None:
    assert plan_shards({"b/猫": 10, "a": 4, "tiny": 1, "c.d": 11, "small": 1}, 5, 2) == [
        PlannedShard(0, ("a",), 0, 1),
        PlannedShard(1, ("b/猫",), 0, 2),
        PlannedShard(2, ("b/猫",), 1, 2),
        PlannedShard(3, ("c.d",), 0, 3),
        PlannedShard(4, ("c.d",), 1, 3),
        PlannedShard(5, ("c.d",), 2, 3),
        PlannedShard(6, ("small", "tiny")),
    ]


def test_what_is_asked_more_lies_in_more_shards() -> None:
    sizes = {"asked": 1000, "not": 1000, "tiny": 10, "rare": 10}
    assert plan_shards(sizes, 500, 20, {"asked": 3.0, "not": 0.1, "tiny": 2}) == [
        *(PlannedShard(part, ("asked",), part, 6) for part in range(6)),
        PlannedShard(6, ("not",), 0, 2),
        PlannedShard(7, ("not",), 1, 2),
        PlannedShard(8, ("tiny",)),
        PlannedShard(9, ("rare",)),
    ]
    assert len(plan_shards({"a": 200}, 500, 20, {"a": 1000})) == 3  # no part without an image
    assert len(plan_shards({"a": 100}, 5, 2, {"a": 1000})) == 20


LIMITS = (st.integers(1, 3000), st.integers(1, 2000))


@given(SIZES, *LIMITS)
def test_a_plan_covers_every_category(sizes: dict[str, int], most: int, least: int) -> None:
    shards = plan_shards(sizes, most, least)
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert {name for shard in shards for name in shard.categories} == set(sizes)
    for category, size in sizes.items():
        parts = [shard for shard in shards if category in shard.categories]
        assert [shard.part for shard in parts] == list(range(len(parts)))
        assert {shard.parts for shard in parts} == {len(parts)}
        assert size / len(parts) <= most
        assert len(parts) == 1 or size / (len(parts) - 1) > most  # not one more than is needed
        if len(parts[0].categories) > 1:
            assert size < least


@given(SIZES, *LIMITS)
def test_packs_are_of_even_size_and_no_more_than_are_needed(sizes: dict[str, int], most: int, least: int) -> None:
    small = {name: size for name, size in sizes.items() if size < min(least, max(1, most // 2))}
    packs = [
        sum(sizes[name] for name in s.categories)
        for s in plan_shards(sizes, most, least)
        if set(s.categories) <= set(small)
    ]
    if packs:
        assert max(packs) <= most
        assert len(packs) <= -(-sum(small.values()) // min(least, most // 2))
        assert max(packs) - min(packs) <= max(small.values())


@given(SIZES, *LIMITS, st.randoms(use_true_random=False))
def test_the_same_sizes_give_the_same_plan(sizes: dict[str, int], most: int, least: int, random: object) -> None:
    other = list(sizes.items())
    random.shuffle(other)  # type: ignore[attr-defined]
    before = dict(sizes)
    assert plan_shards(sizes, most, least) == plan_shards(dict(other), most, least)
    assert sizes == before


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=60), st.integers(1, 40))
def test_no_task_is_over_twice_the_mean(sizes: list[int], most: int) -> None:
    places = assign_tasks(sizes, most)
    sums = [
        sum(size for size, place in zip(sizes, places, strict=True) if place == task) for task in range(max(places) + 1)
    ]
    assert len(sums) <= most
    assert min(sums) > 0
    assert max(sums) <= 2 * sum(sizes) / len(sums)


def test_even_shards_go_to_as_many_tasks_as_are_wanted() -> None:
    assert sorted(assign_tasks([5] * 12, 4)) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert assign_tasks([5, 5], 8) == [0, 1]


@given(st.integers(1, 10**6), st.integers(0, 100), st.integers(1, 10**5))
def test_a_delta_is_split_as_a_category_is(rows: int, first: int, most: int) -> None:
    shards = plan_delta(rows, first, most)
    assert [shard.number for shard in shards] == list(range(first, first + len(shards)))
    assert [(shard.part, shard.parts) for shard in shards] == [(part, len(shards)) for part in range(len(shards))]
    assert rows / len(shards) <= most


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
