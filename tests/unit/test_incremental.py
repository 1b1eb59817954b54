"""Incremental builds: the step of a night, and what it makes of shards and tombstones, against a model of sets."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.records import shard_record
from tests.unit.test_manifest import manifest_of

from likeness.core.settings import Index
from likeness.index.incremental import (
    Step,
    TableChanges,
    kept_shards,
    live_rows,
    next_step,
    update_shards,
)
from likeness.index.manifest import Manifest, Shard
from likeness.storage.artifact import File


def shard(number: int, vectors: int, tombstoned: int = 0, build: str = "b1", delta: bool = False) -> Shard:
    file = File(name=f"{build}/shard-{number:05d}.arrow", bytes=1, sha256="")
    record = shard_record(number, "hat", vectors, (file, file))
    categories = {"hat": vectors - tombstoned}
    return record.model_copy(update={"tombstoned": tombstoned, "delta": delta, "categories": categories})


def changes(stale: Mapping[int, set[int]], live: Mapping[int, Mapping[str, int]], added: int = 0) -> TableChanges:
    rows = [(number, key) for number, keys in stale.items() for key in keys]
    table = pa.table(
        {
            "shard": pa.array([number for number, _ in rows], pa.int32()),
            "id": pa.array([key for _, key in rows], pa.int64()),
        }
    )
    return TableChanges(table, live, added)


def grown() -> Manifest:
    """A whole build of 1000 rows, 5 of them deleted, with the deltas of two nights: one of two shards."""
    deltas = [(2, 10, "b2"), (3, 10, "b2"), (4, 5, "b3")]
    return manifest_of(
        "b3", [shard(0, 600, 5), shard(1, 400), *(shard(n, rows, 2, build, True) for n, rows, build in deltas)]
    )


@pytest.mark.parametrize(
    ("changed", "max_deltas", "step"),
    [(0, 2, "none"), (60, 2, "merge"), (60, 3, "delta"), (71, 3, "whole"), (70, 3, "delta"), (71, 2, "whole")],
)
def test_the_step_counts_what_a_build_has_grown_by(changed: int, max_deltas: int, step: Step) -> None:
    """Rows of deltas count whole, deleted or not: 25, and 5 deleted elsewhere."""
    limits = Index(whole_below=100, max_changed=0.1, max_deltas=max_deltas)
    assert next_step(grown(), 1000, changed, limits) == step
    assert next_step(grown(), 99, changed, limits) == "whole"  # small


@pytest.mark.parametrize(("step", "kept"), [("none", 5), ("delta", 5), ("merge", 2), ("whole", 0)])
def test_the_shards_that_a_step_keeps(step: Step, kept: int) -> None:
    assert kept_shards(grown(), step) == set(range(kept))


IDS = st.sets(st.integers(0, 60), max_size=20)


@given(st.dictionaries(st.integers(0, 3), IDS), st.dictionaries(st.integers(0, 3), IDS), st.sets(st.integers(0, 3)))
def test_shards_after_a_night_are_as_a_model_of_sets(
    before: dict[int, set[int]], stale: dict[int, set[int]], numbers: set[int]
) -> None:
    before = {number: ids for number, ids in before.items() if ids}
    manifest = manifest_of("b1", [shard(number, 21, len(before.get(number, ()))) for number in range(4)])
    gone = {number: before.get(number, set()) | stale.get(number, set()) for number in range(4)}
    counts = {number: {"hat": 21 - len(ids)} for number, ids in gone.items()}
    old = {number: np.sort(np.array(list(ids), np.int64)) for number, ids in before.items()}
    shards, deleted = update_shards(manifest, numbers, changes(stale, counts, 7), old)
    assert [record.number for record in shards] == sorted(n for n in numbers if len(gone[n]) != 21)
    for record in shards:
        assert record.tombstoned == len(gone[record.number])
        assert record.categories == counts[record.number]
        assert deleted.get(record.number, np.empty(0)).tolist() == sorted(gone[record.number])
    assert set(deleted) == {record.number for record in shards if record.tombstoned}


def test_changes_count_what_is_added_and_what_is_stale() -> None:
    assert changes({1: {5, 6}, 2: {5}}, {}, 4).rows == 7


@given(st.sets(st.integers(0, 2**63 - 1), max_size=30), st.sets(st.integers(0, 2**63 - 1), max_size=10))
def test_live_rows_are_those_that_were_not_deleted(ids: set[int], others: set[int]) -> None:
    tombstones = np.sort(np.array([*list(ids)[::2], *others], np.int64))
    rows = live_rows(pa.table({"id": pa.array(sorted(ids), pa.int64())}), tombstones)
    assert rows["id"].to_pylist() == sorted(ids - set(tombstones.tolist()))
