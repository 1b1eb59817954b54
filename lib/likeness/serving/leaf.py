"""A leaf: the shards of one build in memory; query vectors in, the nearest images of all its shards out."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from likeness.core.errors import SpaceMismatch
from likeness.index import distance, tombstones
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest, Shard
from likeness.index.parallel_search import find_in_shards
from likeness.index.shard import Hit, LoadedShard, Near, merge
from likeness.serving.micro_batching import MicroBatcher

_KEPT_ROWS = 1 << 16
"""Rows of a build whose names are kept converted: some 60 MB."""
_FEWEST_ROWS, _MOST_SAMPLED = 16, 4
"""Rows of a category in a sample, where that makes it at most so many times as large as was asked for."""


@dataclass(frozen=True)
class LeafQuery:
    """Queries to a leaf: the `k` nearest images of each of the `vectors`, float32 (q, dim), of a feature space.

    `categories` and `shards` restrict the search; None for all. Queries are equal that differ only in their vectors.
    """

    vectors: np.ndarray = field(compare=False)
    k: int
    space: str
    categories: frozenset[str] | None = None
    shards: frozenset[int] | None = None

    def covers(self, shard: Shard) -> bool:
        """Whether a shard is to be searched."""
        of_category = self.categories is None or not self.categories.isdisjoint(shard.categories)
        return of_category and (self.shards is None or shard.number in self.shards)


@dataclass(frozen=True)
class LeafAnswer:
    """Answer of a leaf: for each query the nearest images, each once, out of `searched` images of some `shards`.

    `degraded` says why shards did not answer, a text for each reason.
    """

    shards: Sequence[int]
    searched: int
    hits: Sequence[Sequence[Hit]]
    degraded: Sequence[str] = ()

    def part(self, start: int, stop: int) -> "LeafAnswer":
        """The answer to some of the queries."""
        return replace(self, hits=self.hits[start:stop])


class LeafPort(Protocol):
    """Interface of a leaf in this process, of one in another, and of many as if they were one."""

    def search(self, query: LeafQuery) -> LeafAnswer:
        """The k nearest images of each query."""

    def sample_vectors(self, rows: int) -> Mapping[str, np.ndarray]:
        """Prepared vectors, float32 (n, dim) by category, as many as `plan_sample` says."""

    def lookup(self, image_id: str) -> Hit | None:
        """Looks up an image of the build by its id; None if the build does not hold it."""

    def sample_hits(self, count: int) -> list[Hit]:
        """About `count` images, some of each shard."""


def check_space(space: str, vectors: np.ndarray, manifest: Manifest) -> None:
    """Checks that query vectors, float32 (q, dim), are of the space of a build.

    Raises:
        SpaceMismatch: they cannot be compared.
    """
    if space != manifest.space or vectors.shape[1] != manifest.dim:
        raise SpaceMismatch(
            f"a query of {space} ({vectors.shape[1]}-d) cannot be compared with build {manifest.build} "
            f"of {manifest.space} ({manifest.dim}-d); encode it with the build's own network"
        )


def plan_sample(manifest: Manifest, rows: int) -> dict[int, dict[str, int]]:
    """How many rows each shard gives to a sample of a build, by shard number and category.

    Every category gives as many, at least 16 if it has them, but all together at most four times `rows`: of more
    categories than that the largest give one row each.
    """
    totals = {name: total for name, total in manifest.categories().items() if total}
    largest = sorted(totals, key=lambda name: (-totals[name], name))[: _MOST_SAMPLED * rows]
    size = min(max(_FEWEST_ROWS, rows // max(1, len(largest))), _MOST_SAMPLED * rows // max(1, len(largest)))
    drawn = {name: min(size, totals[name]) for name in largest}
    plan, seen = dict[int, dict[str, int]](), Counter[str]()
    for shard in manifest.shards:
        counts = {}
        for name in shard.categories.keys() & drawn.keys():  # as if drawn one by one, evenly over the category's shards
            before = seen[name] * drawn[name] // totals[name]
            seen[name] += shard.categories[name]
            counts[name] = seen[name] * drawn[name] // totals[name] - before
        plan[shard.number] = {name: count for name, count in sorted(counts.items()) if count}
    return plan


def concatenate(samples: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins samples, float32 (n, dim) by category, into one."""
    parts: dict[str, list[np.ndarray]] = {}
    for sample in samples:
        for category, vectors in sample.items():
            parts.setdefault(category, []).append(vectors)
    return {category: np.concatenate(vectors) for category, vectors in sorted(parts.items())}


class Leaf:
    """Shards of a build, loaded from local disk; those of a root elsewhere are copied there first.

    Queries of several threads that differ only in their vectors are searched together.
    """

    def __init__(self, builds: Builds, manifest: Manifest, shards: AbstractSet[int] | None = None) -> None:
        """Loads shards of a build by their numbers; all if None.

        Raises:
            DataError: a shard is missing or damaged.
        """
        self._manifest = manifest
        records = [record for record in manifest.shards if shards is None or record.number in shards]
        folder = builds.local(manifest, manifest.model_copy(update={"shards": records}).files)
        removed = tombstones.load(folder, manifest)
        kept = _KEPT_ROWS // max(1, len(records))
        self._shards = [
            LoadedShard(record, folder, manifest.metric, removed.get(record.number), kept) for record in records
        ]
        self.numbers = frozenset(record.number for record in records)
        self._batcher = MicroBatcher(self._search, LeafAnswer.part)

    def search(self, query: LeafQuery, cancelled: Callable[[], bool] | None = None) -> LeafAnswer:
        """Searches its shards, several at a time.

        Args:
            query: the query.
            cancelled: says whether nobody waits for the answer any more; a query that has not begun is dropped then.

        Raises:
            SpaceMismatch: the query is of another space than the build.
            CancelledError: it was dropped.
        """
        check_space(query.space, query.vectors, self._manifest)
        return self._batcher(query.vectors, query, cancelled)

    def _search(self, vectors: np.ndarray, query: LeafQuery) -> LeafAnswer:
        prepared = distance.prepared(vectors, self._manifest.metric)
        shards = [shard for shard in self._shards if query.covers(shard.record)]
        nearest = find_in_shards(shards, prepared, query.k, query.categories)
        hits = [_merge_rows(shards, nearest, number, query) for number in range(len(prepared))]
        return LeafAnswer([shard.record.number for shard in shards], sum(near.searched for near in nearest), hits)

    def warm(self) -> None:
        """Reads the shards from disk, as many as fit into half of the machine's memory."""
        left = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        for shard in self._shards:
            left -= shard.record.index.bytes
            if left >= 0:
                shard.warm()

    def lookup(self, image_id: str) -> Hit | None:
        """Looks up an image of its shards by its id; None if they do not hold it."""
        return next((hit for shard in self._shards if (hit := shard.lookup(image_id))), None)

    def sample_hits(self, count: int) -> list[Hit]:
        """About `count` images, some of each shard."""
        share = -(-count // max(1, len(self._shards)))
        return [hit for shard in self._shards for hit in shard.sample_hits(share)][:count]

    def sample_vectors(self, rows: int, shards: AbstractSet[int] | None = None) -> Mapping[str, np.ndarray]:
        """Its part of a random sample of the build, float32 (n, dim) by category; see `plan_sample`."""
        plan = plan_sample(self._manifest, rows)
        chosen = [shard for shard in self._shards if shards is None or shard.record.number in shards]
        return concatenate(shard.sample_vectors(plan[shard.record.number]) for shard in chosen)


def _merge_rows(shards: Sequence[LoadedShard], nearest: Sequence[Near], number: int, query: LeafQuery) -> list[Hit]:
    """The k nearest images of one of the queries in all shards; names are looked up only for those."""
    if not shards:
        return []
    parts = [(near.scores[number], near.rows[number]) for near in nearest]
    if len(shards) == 1:
        valid = parts[0][1] >= 0
        return merge([shards[0].hits(parts[0][0][valid], parts[0][1][valid], query.categories)], query.k)
    scores, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    owners = np.repeat(np.arange(len(parts)), [len(part) for part, _ in parts])
    images = np.concatenate([shard.images[part] for shard, (_, part) in zip(shards, parts, strict=True)])
    order = np.lexsort((images, -scores))
    order = order[rows[order] >= 0]
    # an image may be in several shards
    firsts = np.sort(np.unique(images[order], return_index=True)[1])[: query.k]
    chosen = order[np.isin(images[order], images[order[firsts]])]
    hits = []
    for owner in np.unique(owners[chosen]):
        own = chosen[owners[chosen] == owner]
        hits.append(shards[owner].hits(scores[own], rows[own], query.categories))
    return merge(hits, query.k)
