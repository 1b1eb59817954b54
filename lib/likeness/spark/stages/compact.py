"""Compact and gc: merges small files of the tables, and deletes builds, snapshots and files.   [pyspark]

Each run adds files and snapshots. The snapshots of kept builds and of the last load stay, for a rollback and for the
next incremental load.
"""

from collections.abc import Iterator
from contextlib import suppress

from likeness.core.errors import DataError
from likeness.index.builds import Builds
from likeness.spark.run import Run
from likeness.spark.stages.load import PRODUCTS_MARK, open_keyed_store, vectors_mark
from likeness.storage.run_facts import CompactFacts, GcFacts


def compact(run: Run) -> None:
    """Rewrites small files into large ones, then runs `gc`.

    Raises:
        ServiceError: as `gc`.
    """
    with run.stage(CompactFacts) as facts:
        for table in run.tables.written():
            before = run.tables.file_count(table)
            run.tables.rewrite(table)
            facts.tables |= {table.name: (before, run.tables.file_count(table))}
            run.say(f"compact: {table.name}: {before} files, {facts.tables[table.name][1]} after the compaction")
    gc(run)


def gc(run: Run) -> None:
    """Deletes old builds, old snapshots, and files that nothing refers to.

    Kept are the builds that were in service and the newest one of each space, with the shards that they name, and the
    snapshots of kept builds and of the last load.

    Raises:
        ServiceError: the keyed store, which holds the snapshots of the last load, does not answer.
    """
    with run.stage(GcFacts) as facts:
        run.check_leases()
        facts.builds, facts.build_files = Builds.open(run.settings).sweep_all(run.space.id)
        run.say(f"gc: deleted {facts.builds} builds with {facts.build_files} files")
        needed = set(_needed(run))
        for table in run.tables.written():
            before = len(run.tables.snapshots(table))
            run.tables.expire(table, needed)
            run.tables.delete_orphans(table)
            facts.tables |= {table.name: (before, len(run.tables.snapshots(table)))}
            run.say(f"gc: {table.name}: {before} snapshots, {facts.tables[table.name][1]} kept")


def _needed(run: Run) -> Iterator[int]:
    """The snapshots of kept builds, and those of the last load."""
    builds = Builds.open(run.settings)
    spaces = {run.space.id}
    for path in builds.all():
        spaces.add(path.partition("/")[0])
        with suppress(DataError):  # a damaged build cannot be rolled back to
            yield from builds.read(path).snapshots.values()
    with open_keyed_store(run.settings) as store:
        marks = [store.get_mark(name) for name in (PRODUCTS_MARK, *map(vectors_mark, sorted(spaces)))]
    yield from (mark for mark in marks if mark is not None)
