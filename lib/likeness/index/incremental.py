"""Incremental builds: which step brings a build up to the tables, and what its shards are afterwards.

Pure: manifests, Arrow tables and numpy arrays in, the same out.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.settings import Index
from likeness.index.manifest import Manifest, Shard

Step = Literal["none", "delta", "merge", "whole"]
"""`none`: the shards stay; `delta`: one more delta; `merge`: one delta instead of all; `whole`: all shards anew."""
UNCHANGED = "unchanged"
"""The step in the facts of a run that compared nothing, because no table has changed."""
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class TableChanges:
    """The difference between some shards of a build and the tables.

    `stale` are rows (shard int32, id int64) that the tables do not have, or have with other facts; `live` counts all
    other rows by shard and category; `added` is the number of items in the tables that have no live row.
    """

    stale: pa.Table
    live: Mapping[int, Mapping[str, int]]
    added: int

    @property
    def rows(self) -> int:
        """Rows to add or to delete."""
        return self.added + int(self.stale.num_rows)


def next_step(manifest: Manifest, items: int, changed: int, settings: Index) -> Step:
    """Chooses the step that brings a build up to the tables.

    It depends on the rows of deltas and the deleted rows since the last whole build, with those of this night, and on
    the number of nights that left a delta.

    Args:
        manifest: the build in service.
        items: (category, item) pairs that the index is to hold.
        changed: rows that this night adds or deletes, as far as they are known.
        settings: the limits.
    """
    drift = changed + sum(shard.vectors if shard.delta else shard.tombstoned for shard in manifest.shards)
    if items < settings.whole_below or drift > settings.max_changed * items:
        return "whole"
    if not changed:
        return "none"
    nights = {shard.build for shard in manifest.shards if shard.delta}
    return "merge" if len(nights) >= settings.max_deltas else "delta"


def kept_shards(manifest: Manifest, step: Step) -> set[int]:
    """The numbers of the shards that the next build keeps."""
    return {shard.number for shard in manifest.shards if step != "whole" and not (step == "merge" and shard.delta)}


def live_rows(id_map: pa.Table, tombstones: np.ndarray = NOTHING) -> pa.Table:
    """The rows of an id map whose ids are not among the tombstones, int64 (n,)."""
    return id_map.filter(pc.invert(pc.is_in(id_map["id"], pa.array(tombstones)))) if len(tombstones) else id_map


def update_shards(
    manifest: Manifest, numbers: Collection[int], changes: TableChanges, tombstones: Mapping[int, np.ndarray]
) -> tuple[list[Shard], dict[int, np.ndarray]]:
    """Deletes the stale rows of a build's shards.

    Args:
        manifest: the build in service.
        numbers: the shards to keep.
        changes: the difference between these shards and the tables.
        tombstones: sorted ids by shard that the build has deleted already.

    Returns:
        The shards that have live rows left, with their new counts; and sorted ids by shard, the earlier ones included.
    """
    owners, ids = changes.stale["shard"].to_numpy(), changes.stale["id"].to_numpy()
    shards, deleted = list[Shard](), dict[int, np.ndarray]()
    for shard in manifest.shards:
        if shard.number not in numbers:
            continue
        gone = np.union1d(ids[owners == shard.number], tombstones.get(shard.number, NOTHING))
        categories = dict(sorted(changes.live.get(shard.number, {}).items()))
        updated = shard.model_copy(update={"tombstoned": len(gone), "categories": categories})
        if updated.live:
            shards.append(updated)
            if len(gone):
                deleted[shard.number] = gone
    return shards, deleted
