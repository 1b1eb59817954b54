"""What the report shows of a build: its manifest in, categories and shards out. Pure."""

from collections.abc import Sequence

from likeness.index.manifest import Manifest, Shard

_CATEGORIES, _SHARDS = 40, 60
"""Categories and shards on the page, at most."""


def largest_categories(manifest: Manifest) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The 40 largest categories with their vectors, and the others."""
    ranked = sorted(manifest.categories().items(), key=lambda item: (-item[1], item[0]))
    return ranked[:_CATEGORIES], ranked[_CATEGORIES:]


def worst_shard(manifest: Manifest) -> Shard:
    """The shard of the lowest recall."""
    return min(manifest.shards, key=lambda shard: (shard.lowest, shard.number))


def shards(manifest: Manifest) -> Sequence[Shard]:
    """All shards by number; of more than 60, those of the lowest recall, the worst first."""
    if len(manifest.shards) <= _SHARDS:
        return sorted(manifest.shards, key=lambda shard: shard.number)
    return sorted(manifest.shards, key=lambda shard: (shard.lowest, shard.number))[:_SHARDS]


def trial_shard(manifest: Manifest) -> Shard | None:
    """The largest shard that had a trial of index kinds and parameters; None if all are searched exactly."""
    tried = (shard for shard in manifest.shards if shard.curve)
    return max(tried, key=lambda shard: (shard.vectors, -shard.number), default=None)
