"""A leaf: shards of one build in memory; prepared queries in, each shard's hits out."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from likeness.builds import Builds
from likeness.errors import SpaceMismatch
from likeness.indexes import metrics, tombstones
from likeness.indexes.search import LoadedShard, ShardAnswer
from likeness.manifest import Manifest


class LeafPort(Protocol):
    """What the root asks of a leaf, in this process or another."""

    def search(
        self, queries: np.ndarray, k: int, space: str, categories: Collection[str] | None
    ) -> Sequence[ShardAnswer]:
        """The k nearest of each query in each shard of the categories (all if None)."""
        ...

    def samples(self, rows: int) -> Mapping[str, np.ndarray]:
        """About `rows` prepared vectors in all, float32 (n, dim) by category."""
        ...


class Leaf:
    """The shards of a build, loaded from local disk; those of a root elsewhere are copied there first."""

    def __init__(self, builds: Builds, manifest: Manifest) -> None:
        self._manifest = manifest
        folder = builds.local(manifest)
        removed = tombstones.load(folder, manifest)
        self._shards = [
            LoadedShard(record, folder, manifest.metric, removed.get(record.number)) for record in manifest.shards
        ]

    def search(
        self, queries: np.ndarray, k: int, space: str, categories: Collection[str] | None
    ) -> Sequence[ShardAnswer]:
        """Searches its shards, one after the other.

        Args:
            queries: float32 (q, dim), as the layer gives them.
            k: hits a shard and query.
            space: the feature space of the queries.
            categories: which to search; None for all.

        Raises:
            SpaceMismatch: the queries are of another space than the build.
        """
        if space != self._manifest.space or queries.shape[1] != self._manifest.dim:
            raise SpaceMismatch(
                f"a query of {space} ({queries.shape[1]}-d) cannot be compared with build {self._manifest.build} "
                f"of {self._manifest.space} ({self._manifest.dim}-d); encode it with the build's own network"
            )
        prepared = metrics.prepared(queries, self._manifest.metric)
        wanted = None if categories is None else set(categories)
        asked = [s for s in self._shards if wanted is None or wanted & s.record.categories.keys()]
        return [shard.search(prepared, k, wanted) for shard in asked]

    def samples(self, rows: int) -> Mapping[str, np.ndarray]:
        """A random sample of each category, of even size."""
        totals = self._manifest.categories()
        even = max(16, rows // max(1, len(totals)))
        found: dict[str, list[np.ndarray]] = {}
        for shard in self._shards:
            for category, vectors in shard.sample({name: even / total for name, total in totals.items()}).items():
                found.setdefault(category, []).append(vectors)
        return {category: np.concatenate(parts) for category, parts in sorted(found.items())}
