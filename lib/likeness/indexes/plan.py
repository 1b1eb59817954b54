"""The shard plan: images by category in, shards out. Pure; the same sizes give the same plan."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedShard:
    """Shard `number` holds part `part` of `parts` of a category's images."""

    number: int
    category: str
    part: int
    parts: int


def plan(sizes: Mapping[str, int], max_vectors: int) -> list[PlannedShard]:
    """One shard a category, or as many equal parts as keep a part at or below `max_vectors` in the mean.

    An image's part is decided by the first 32 bits of its SHA-256, so parts are even and stable.
    """
    shards: list[PlannedShard] = []
    for category in sorted(sizes):
        parts = -(-sizes[category] // max_vectors)
        first = len(shards)
        shards.extend(PlannedShard(first + part, category, part, parts) for part in range(parts))
    return shards


def part_of(image_id: str, parts: int) -> int:
    """Which part of a split category an image is in."""
    return int(image_id[:8], 16) * parts >> 32
