"""The shard plan: images by category in, shards and the tasks that build them out. Pure: same sizes, same plan."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Name = TypeVar("Name", str, int)
_FEW = 64
"""Images of a shard, in the mean, below which some part of a category might get none."""


@dataclass(frozen=True)
class PlannedShard:
    """Shard `number` holds part `part` of `parts` of the images of its categories; a delta's are not told before."""

    number: int
    categories: tuple[str, ...] = ()
    part: int = 0
    parts: int = 1


def plan(
    sizes: Mapping[str, int], most: int, least: int, traffic: Mapping[str, float] | None = None
) -> list[PlannedShard]:
    """One shard a category; a big one is split, tiny ones are packed together.

    Args:
        sizes: images by category.
        most: vectors of a shard, at or below which its parts stay in the mean.
        least: a smaller category shares a shard with others; the packs are of even size, of `least` in the mean.
        traffic: how often a category is asked, against the mean: its images count so many times, so that what is asked
            more lies in more shards. Others, and what is asked less than the mean, count once.

    An image's part is decided by the first 32 bits of its SHA-256, so parts are even and stable.
    """
    shards: list[PlannedShard] = []
    least = max(1, min(least, most // 2))  # so that no pack is over `most`
    weights = {name: math.ceil(size * max(1.0, (traffic or {}).get(name, 1.0))) for name, size in sizes.items()}
    for category in sorted(name for name, weight in weights.items() if weight >= least):
        parts = max(-(-sizes[category] // most), min(-(-weights[category] // most), sizes[category] // _FEW))
        first = len(shards)
        shards.extend(PlannedShard(first + part, (category,), part, parts) for part in range(parts))
    tiny = {name: weight for name, weight in weights.items() if weight < least}
    packs = spread(tiny, -(-sum(tiny.values()) // least)) if tiny else {}
    for pack in range(len(set(packs.values()))):
        names = tuple(sorted(name for name, place in packs.items() if place == pack))
        shards.append(PlannedShard(len(shards), names))
    return shards


def part_of(image_id: str, parts: int) -> int:
    """Which part of a split category, or of a split delta, an image is in."""
    return int(image_id[:8], 16) * parts >> 32


def delta_plan(rows: int, first: int, most: int) -> list[PlannedShard]:
    """The shards of a night's new rows, of all categories, numbered from `first`."""
    parts = -(-rows // most)
    return [PlannedShard(first + part, (), part, parts) for part in range(parts)]


def spread(sizes: Mapping[Name, int], bins: int) -> dict[Name, int]:
    """Things by size into bins of even sum: the largest first, each into the bin that holds least."""
    heap = [(0, number) for number in range(min(bins, len(sizes)))]
    places = {}
    for name in sorted(sizes, key=lambda one: (-sizes[one], one)):
        held, number = heapq.heappop(heap)
        places[name] = number
        heapq.heappush(heap, (held + sizes[name], number))
    return places


def tasks(sizes: Sequence[int], wanted: int) -> list[int]:
    """The task that builds each shard, given the shards' sizes: `wanted` tasks, or fewer.

    No task is over twice the mean, unless a shard is that by itself in any number of tasks.
    """
    named = dict(enumerate(sizes))
    for count in range(min(wanted, len(sizes)), 0, -1):
        places = spread(named, count)
        sums = [0] * count
        for number, place in places.items():
            sums[place] += sizes[number]
        if max(sums) * count <= 2 * sum(sums):
            break
    return [places[number] for number in range(len(sizes))]
