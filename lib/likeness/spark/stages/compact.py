"""Compact: tables of many small files in, the same rows in few large files out; garbage collected.   [pyspark]

A night adds its own files and snapshots. What is still needed to go back to a kept build, or to load only what
changed since the last load, stays.
"""

from collections.abc import Iterator
from contextlib import suppress

from likeness.core.errors import DataError
from likeness.index.builds import Builds
from likeness.spark.run import Run
from likeness.spark.stages.load import PRODUCTS_MARK, opened, vectors_mark
from likeness.storage.run_facts import CompactFacts, GcFacts
from likeness.storage.tables import TABLES


def compact(run: Run) -> None:
    """Rewrites small files, then collects garbage.

    Raises:
        ServiceError: as `gc`.
    """
    with run.stage(CompactFacts) as facts:
        for table in TABLES:
            if run.tables.snapshot(table) is None:
                continue
            before = run.tables.files(table)
            run.guard()
            run.tables.rewrite(table)
            facts.tables |= {table.name: (before, run.tables.files(table))}
            run.say(f"compact: {table.name}: {before} files to {facts.tables[table.name][1]}")
    gc(run)


def gc(run: Run) -> None:
    """Deletes builds that are neither in the chain nor the newest of their space, shards that only those named,
    snapshots that no kept build or load needs, and files that no snapshot names.

    Raises:
        ServiceError: the keyed store does not answer; how far its loads came decides what may go.
    """
    with run.stage(GcFacts) as facts:
        run.guard()
        facts.builds, facts.build_files = Builds(run.settings.root).sweep_all(run.space.id)
        run.say(f"gc: {facts.builds} builds deleted, with {facts.build_files} files")
        needed = set(_needed(run))
        for table in TABLES:
            if run.tables.snapshot(table) is None:
                continue
            before = len(run.tables.snapshots(table))
            run.guard()
            run.tables.expire(table, needed)
            run.tables.delete_orphans(table)
            facts.tables |= {table.name: (before, len(run.tables.snapshots(table)))}
            run.say(f"gc: {table.name}: {before} snapshots to {facts.tables[table.name][1]}")


def _needed(run: Run) -> Iterator[int]:
    """The snapshots that kept builds were made of, and those that were loaded last."""
    builds = Builds(run.settings.root)
    spaces = {run.space.id}
    for path in builds.all():
        spaces.add(path.partition("/")[0])
        with suppress(DataError):  # a damaged build cannot be gone back to
            yield from builds.read(path).snapshots.values()
    with opened(run.settings) as store:
        marks = [store.get_mark(name) for name in (PRODUCTS_MARK, *map(vectors_mark, sorted(spaces)))]
    yield from (mark for mark in marks if mark is not None)
