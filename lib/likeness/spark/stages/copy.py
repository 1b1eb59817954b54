"""Copy: a root in, the same root at another place out, also on another file system.   [pyspark]

Iceberg's metadata contain absolute paths, so that tables cannot be copied file by file: an Iceberg procedure rewrites
the metadata and lists the files to copy. Snapshots keep their ids, so builds and marks of loads stay valid.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from likeness import storage
from likeness.core import uris
from likeness.core.errors import ServiceError, UsageError
from likeness.index.build_files import MANIFEST
from likeness.index.builds import Builds
from likeness.spark.arrow_map import arrow_map, rows_of
from likeness.spark.run import Run
from likeness.spark.stages.load import open_keyed_store
from likeness.storage.run_facts import CopyRootFacts

_PAIRS = pa.schema([("source", pa.string()), ("target", pa.string())])


def copy(run: Run, to: str) -> None:
    """Copies tables, builds, reports and a SQLite keyed store; the old root does not change.

    Raises:
        UsageError: the place has tables already, or a catalogue service manages the tables' locations.
        ServiceError: a file cannot be copied.
    """
    if run.settings.warehouse.type != "hadoop":
        raise UsageError(
            f"warehouse.type = {run.settings.warehouse.type!r}: the catalogue service manages the tables' locations; "
            "copy them with the tools of that service"
        )
    old, new = uris.canonical(run.settings.root), uris.canonical(to)
    tables = uris.join(new, "tables")
    if storage.files(new).names(uris.join(tables, run.settings.warehouse.namespace)):
        raise UsageError(f"{to} holds tables already; name an empty place, or delete the remains of an earlier copy")
    with run.stage(CopyRootFacts) as facts:
        facts.files = 0
        staging = uris.join(new, "staging")
        for table in run.tables.written():
            place = uris.join(tables, run.settings.warehouse.namespace, table.name)
            pairs = run.tables.relocated(table, place, uris.join(staging, table.name))
            facts.files += _copy(run, pairs)
            run.say(f"copy: {table.name}: {len(pairs)} files")
        storage.files(staging).delete(staging)
        facts.files += _copy(run, list(_other_files(run, old, new)))
        _copy_keyed_store(run, new)
        run.say(f"copy: {facts.files} files are in {to}")
        if run.settings.warehouse.uri:
            run.say(f"copy: the tables are in {tables}; leave warehouse.uri out of the settings of the new root")


def _other_files(run: Run, old: str, new: str) -> Iterator[tuple[str, str]]:
    """(source, target) of the files of builds, reports and hidden products."""
    builds = Builds.open(run.settings)
    names = set()
    for path in builds.all():  # builds share files
        manifest = builds.read(path)
        names |= {f"{path}/{MANIFEST}", *(f"{manifest.space}/{file.name}" for file in manifest.files)}
    folders = {folder: storage.files(old).names(uris.join(old, folder)) for folder in ("reports", "hidden")}
    for folder, files in {"builds": [*sorted(names), *builds.published.files()], **folders}.items():
        yield from ((uris.join(old, folder, name), uris.join(new, folder, name)) for name in files)


def _copy_keyed_store(run: Run, new: str) -> None:
    """Copies the SQLite file of the root; any other store stays where the settings say."""
    if run.settings.keyed.uri:
        return
    if uris.scheme(new) != "file":
        run.say("copy: the SQLite store is not copied; set keyed.uri for the new root, and run load")
        return
    with open_keyed_store(run.settings) as store:
        store.purge()  # moves everything into one file
    uri = storage.keyed_uri("", run.settings.root)
    storage.files(new).upload(uri.removeprefix("sqlite://"), uris.join(new, "keyed.sqlite"))


def _copy(run: Run, pairs: Sequence[tuple[str, str]]) -> int:
    """Copies files on all cores; returns their number."""
    table = pa.Table.from_pylist([{"source": source, "target": target} for source, target in pairs], schema=_PAIRS)
    failed = arrow_map(run.tables.spread(table), _copier, "error string").collect()
    if failed:
        raise ServiceError(f"copy: {failed[0].error}; {len(failed)} of {len(pairs)} files were not copied")
    return len(pairs)


def _copier(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Copies by way of a local file, since file systems take whole files only; yields errors."""
    with TemporaryDirectory(prefix="likeness-copy-") as scratch:
        path = Path(scratch, "file")
        for pair in rows_of(batches):
            source, target = uris.canonical(pair["source"]), uris.canonical(pair["target"])
            try:
                storage.fetch(source, path)
                storage.files(target).upload(str(path), target)
            except OSError as error:
                yield pa.RecordBatch.from_pydict({"error": [str(error)]})
