"""The shard plan: images by category in, shards and the tasks that build them out. Pure: same sizes, same plan."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name", str, int)
_FEW = 64
"""Mean number of images below which a part of a category might get none."""


@dataclass(frozen=True)
class PlannedShard:
    """Shard `number`: part `part` of `parts` of its categories' images; a delta names no category, and may have any."""

    number: int
    categories: tuple[str, ...] = ()
    part: int = 0
    parts: int = 1


def plan_shards(
    sizes: Mapping[str, int], most: int, least: int, traffic: Mapping[str, float] | None = None
) -> list[PlannedShard]:
    """Plans one shard a category; a big one is split, tiny ones are packed together.

    Args:
        sizes: images by category.
        most: the highest mean number of vectors of a category's shards.
        least: a smaller category shares a shard with others; the packs are of even size, of `least` in the mean.
        traffic: how often a category is searched, relative to the mean: its images count so many times, so that a
            category searched more gets more shards. All others count once.

    The first 32 bits of an image's SHA-256 decide its part, so parts are even and stable.
    """
    shards: list[PlannedShard] = []
    least = max(1, min(least, most // 2))  # so that no pack is over `most`
    weights = {name: math.ceil(size * max(1.0, (traffic or {}).get(name, 1.0))) for name, size in sizes.items()}
    for category in sorted(name for name, weight in weights.items() if weight >= least):
        parts = max(-(-sizes[category] // most), min(-(-weights[category] // most), sizes[category] // _FEW))
        first = len(shards)
        shards.extend(PlannedShard(first + part, (category,), part, parts) for part in range(parts))
    tiny = {name: weight for name, weight in weights.items() if weight < least}
    packs = balance(tiny, -(-sum(tiny.values()) // least)) if tiny else {}
    for pack in range(len(set(packs.values()))):
        names = tuple(sorted(name for name, place in packs.items() if place == pack))
        shards.append(PlannedShard(len(shards), names))
    return shards


def part_of(image_id: str, parts: int) -> int:
    """The part of a split category, or of a split delta, that an image is in."""
    return int(image_id[:8], 16) * parts >> 32


def plan_delta(rows: int, first: int, most: int) -> list[PlannedShard]:
    """Plans the shards of a night's new rows, of all categories, numbered from `first`."""
    parts = -(-rows // most)
    return [PlannedShard(first + part, (), part, parts) for part in range(parts)]


def balance(sizes: Mapping[Name, int], bins: int) -> dict[Name, int]:
    """Distributes things by size over bins of even sum: the largest first, each into the bin with the lowest sum."""
    heap = [(0, number) for number in range(min(bins, len(sizes)))]
    places = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        total, number = heapq.heappop(heap)
        places[name] = number
        heapq.heappush(heap, (total + sizes[name], number))
    return places


def assign_tasks(sizes: Sequence[int], most: int) -> list[int]:
    """Assigns shards, given by size, to at most `most` tasks; returns the task of each shard.

    No task has more than twice the mean, unless a single shard has.
    """
    named = dict(enumerate(sizes))
    for count in range(min(most, len(sizes)), 0, -1):
        places = balance(named, count)
        sums = [0] * count
        for number, place in places.items():
            sums[place] += sizes[number]
        if max(sums) * count <= 2 * sum(sums):
            break
    return [places[number] for number in range(len(sizes))]
