"""Compact: tables of many small files and snapshots in, the same rows in few large files out.   [pyspark]

A night adds its own files and snapshots. What is still needed to go back to a kept build, or to load only what
changed since the last load, stays.
"""

from collections.abc import Iterator

from likeness.manifest import Builds
from likeness.spark.load import PRODUCTS_MARK, opened, vectors_mark
from likeness.spark.run import Run
from likeness.tables import TABLES


def compact(run: Run) -> None:
    """Rewrites small files, expires snapshots that nothing needs, and deletes files that no snapshot names.

    Raises:
        ServiceError: the keyed store does not answer; how far its loads came decides what may go.
    """
    with run.stage("compact") as facts:
        needed = set(_needed(run))
        for table in TABLES:
            lake = run.lake
            if lake.snapshot(table) is None:
                continue
            before = lake.files(table), len(lake.snapshots(table))
            run.guard()
            lake.rewrite(table)
            run.guard()
            lake.expire(table, needed)
            lake.delete_orphans(table)
            after = lake.files(table), len(lake.snapshots(table))
            facts[table.name] = {"files": [before[0], after[0]], "snapshots": [before[1], after[1]]}
            told = f"{before[0]} files to {after[0]}, {before[1]} snapshots to {after[1]}"
            run.say(f"compact: {table.name}: {told}")


def _needed(run: Run) -> Iterator[int]:
    """The snapshots that kept builds were made of, and those that were loaded last."""
    builds = Builds(run.settings.root)
    spaces = {run.space.id}
    for path in builds.all():
        manifest = builds.read(path)
        spaces.add(manifest.space)
        yield from manifest.snapshots.values()
    with opened(run.settings) as store:
        marks = [store.get_mark(name) for name in (PRODUCTS_MARK, *map(vectors_mark, sorted(spaces)))]
    yield from (mark for mark in marks if mark is not None)
