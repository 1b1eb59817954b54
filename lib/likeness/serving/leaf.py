"""A leaf: shards of one build in memory; prepared queries in, the nearest images of all its shards out."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from likeness.core.errors import SpaceMismatch
from likeness.index import distance, tombstones
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.index.shard import Hit, LoadedShard, Near, merge


@dataclass(frozen=True)
class LeafAnswer:
    """What a leaf found: for each query the nearest images, each once, out of `searched` images of some `shards`.

    `degraded` says of shards that were asked and did not answer why, a text for each reason.
    """

    shards: Sequence[int]
    searched: int
    hits: Sequence[Sequence[Hit]]
    degraded: Sequence[str] = ()


def refuse_other(space: str, queries: np.ndarray, manifest: Manifest) -> None:
    """Refuses queries, float32 (q, dim), of a space that is not the build's.

    Raises:
        SpaceMismatch: they cannot be compared.
    """
    if space != manifest.space or queries.shape[1] != manifest.dim:
        raise SpaceMismatch(
            f"a query of {space} ({queries.shape[1]}-d) cannot be compared with build {manifest.build} "
            f"of {manifest.space} ({manifest.dim}-d); encode it with the build's own network"
        )


class LeafPort(Protocol):
    """What the root asks of a leaf, in this process or another, or of many as if they were one."""

    def search(
        self,
        queries: np.ndarray,
        k: int,
        space: str,
        categories: Collection[str] | None,
        shards: Collection[int] | None = None,
    ) -> LeafAnswer:
        """The k nearest of each query in the shards of the categories (all if None), or in some of those shards."""
        ...

    def samples(self, rows: int, shards: Collection[int] | None = None) -> Mapping[str, np.ndarray]:
        """About `rows` prepared vectors in all, float32 (n, dim) by category."""
        ...

    def shown(self, image_id: str) -> Hit | None:
        """An image that the build shows; None if it does not."""
        ...

    def some(self, count: int) -> list[Hit]:
        """About so many images of all shards, some of each."""
        ...


class Leaf:
    """Shards of a build (all if None), loaded from local disk; those of a root elsewhere are copied there first."""

    def __init__(self, builds: Builds, manifest: Manifest, shards: Collection[int] | None = None) -> None:
        self._manifest = manifest
        mine = [record for record in manifest.shards if shards is None or record.number in shards]
        folder = builds.local(manifest, manifest.model_copy(update={"shards": mine}).files)
        removed = tombstones.load(folder, manifest)
        self._shards = [LoadedShard(record, folder, manifest.metric, removed.get(record.number)) for record in mine]

    def search(
        self,
        queries: np.ndarray,
        k: int,
        space: str,
        categories: Collection[str] | None,
        shards: Collection[int] | None = None,
    ) -> LeafAnswer:
        """Searches its shards, one after the other.

        Args:
            queries: float32 (q, dim), as the layer gives them.
            k: hits a query.
            space: the feature space of the queries.
            categories: which to search; None for all.
            shards: those of them that are asked; None for all.

        Raises:
            SpaceMismatch: the queries are of another space than the build.
        """
        refuse_other(space, queries, self._manifest)
        prepared = distance.prepared(queries, self._manifest.metric)
        wanted = None if categories is None else set(categories)
        asked = [s for s in self._asked(shards) if wanted is None or wanted & s.record.categories.keys()]
        near = [shard.find(prepared, k, wanted) for shard in asked]
        hits = [self._merged(asked, near, number, k, wanted) for number in range(len(prepared))]
        return LeafAnswer([shard.record.number for shard in asked], sum(one.searched for one in near), hits)

    @staticmethod
    def _merged(
        asked: Sequence[LoadedShard], near: Sequence[Near], query: int, k: int, categories: Collection[str] | None
    ) -> list[Hit]:
        """The k nearest images of a query in all shards; names are looked up only of those."""
        if not asked:
            return []
        parts = [(one.scores[query], one.rows[query]) for one in near]
        if len(asked) == 1:
            found = parts[0][1] >= 0
            return merge([asked[0].hits(parts[0][0][found], parts[0][1][found], categories)], k)
        scores, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
        owners = np.repeat(np.arange(len(parts)), [len(part) for part, _ in parts])
        ids = np.concatenate([shard.ids[found] for shard, (_, found) in zip(asked, parts, strict=True)])
        order = np.lexsort((ids, -scores))
        order = order[rows[order] >= 0]
        firsts = np.sort(np.unique(ids[order], return_index=True)[1])[:k]  # an image may be in several shards
        chosen = order[np.isin(ids[order], ids[order[firsts]])]
        found = []
        for owner in np.unique(owners[chosen]):
            mine = chosen[owners[chosen] == owner]
            found.append(asked[owner].hits(scores[mine], rows[mine], categories))
        return merge(found, k)

    def warm(self) -> None:
        """Reads the shards through, as many as fit into half of the machine's memory."""
        left = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        for shard in self._shards:
            left -= shard.record.index.bytes
            if left >= 0:
                shard.warm()

    def shown(self, image_id: str) -> Hit | None:
        """An image that its shards show; None if they do not."""
        return next((hit for shard in self._shards if (hit := shard.shown(image_id))), None)

    def some(self, count: int) -> list[Hit]:
        """About so many images of all its shards, some of each."""
        even = -(-count // max(1, len(self._shards)))
        return [hit for shard in self._shards for hit in shard.some(even)][:count]

    def samples(self, rows: int, shards: Collection[int] | None = None) -> Mapping[str, np.ndarray]:
        """Of each category a random sample, of even size over all shards of the build."""
        totals = self._manifest.categories()
        even = max(16, rows // max(1, len(totals)))
        found: dict[str, list[np.ndarray]] = {}
        for shard in self._asked(shards):
            for category, vectors in shard.sample({name: even / total for name, total in totals.items()}).items():
                found.setdefault(category, []).append(vectors)
        return {category: np.concatenate(parts) for category, parts in sorted(found.items())}

    def _asked(self, shards: Collection[int] | None) -> Sequence[LoadedShard]:
        return self._shards if shards is None else [shard for shard in self._shards if shard.record.number in shards]
