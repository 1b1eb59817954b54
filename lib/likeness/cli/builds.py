"""`likeness verify`, `rollback`, `export`: check a build, go back to the previous one, write vectors to a file."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from likeness import storage
from likeness.cli.common import AsJson, show_result, with_root
from likeness.core.errors import DataError, ServiceError, UsageError
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.ops.consistency import compare_products, compare_vectors
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

_MAX_LISTED = 20


@with_root
def verify(
    settings: Settings,
    build: Annotated[str, typer.Option(help="a build by name (default: those in service)")] = "",
    as_json: AsJson = False,
) -> None:
    """Check a build.

    Verifies checksums, loads every shard, and compares counts with the tables and the keyed store.
    """
    builds = Builds.open(settings)
    manifests = [builds.find(build)] if build else [builds.find(space=space) for space in builds.spaces() or [""]]
    in_build, in_store = list[str](), list[str]()
    for manifest in manifests:
        in_build += builds.problems(manifest) or _load_all(builds, manifest)
        in_build += _against_tables(TableReader(settings), manifest)
        in_store += _against_store(settings, manifest)
    problems, paths = list(dict.fromkeys(in_build + in_store)), [manifest.path for manifest in manifests]
    result = {"build": paths[0], "builds": paths, "ok": not problems, "problems": problems}
    show_result(result, as_json, lambda: _show_complete([] if problems else manifests))
    if problems:
        details = "" if as_json else ":\n  " + "\n  ".join(problems)
        remedies = ["`likeness rollback` puts the previous build back in service"] * bool(in_build)
        remedies += ["`./spark-submit.sh load --set keyed.reload=true` repairs the keyed store"] * bool(in_store)
        raise DataError(f"{', '.join(paths)} has {len(problems)} problems{details}\n" + "\n".join(remedies))


def _show_complete(manifests: Sequence[Manifest]) -> None:
    for manifest in manifests:
        print(
            f"{manifest.path} is complete: {len(manifest.shards)} shards, {manifest.vectors} vectors of "
            f"{manifest.images} images and {manifest.products} products; tables and keyed store agree with it"
        )


def _load_all(builds: Builds, manifest: Manifest) -> list[str]:
    """Loads every shard; the error if one fails."""
    from likeness.serving.leaf import Leaf

    try:
        Leaf(builds, manifest)
    except DataError as error:
        return [str(error)]
    return []


def _against_tables(tables: TableReader, manifest: Manifest) -> list[str]:
    """Checks that the build holds each active listing's image that has a vector, at the snapshots it names."""
    where = f"space = '{manifest.space}'"
    features = tables.read(FEATURES, ("image_id", "region"), where, manifest.snapshots["features"])
    listings = tables.read(LISTINGS, ("image_id", "category", "active"), snapshot=manifest.snapshots["listings"])
    pairs = listings.filter(listings["active"]).group_by(["category", "image_id"]).aggregate([])
    items = features.group_by(["image_id", "region"]).aggregate([])
    expected = pairs.join(items, "image_id", join_type="inner").num_rows
    problems = []
    if duplicates := len(features) - len(items):
        problems.append(f"features: {duplicates} vectors of {manifest.space} are duplicates")
    present = sum(manifest.categories().values())
    if expected != present:
        problems.append(f"the tables have {expected} (category, item) pairs with a vector, but the build has {present}")
    return problems


def _against_store(settings: Settings, manifest: Manifest) -> list[str]:
    """Compares every row of the keyed store with the tables, and names the first that differ of each kind."""
    tables = TableReader(settings)
    try:
        store = storage.keyed(storage.keyed_uri(settings.keyed.uri, settings.root))
    except ServiceError as error:
        return [str(error)]
    keys = defaultdict[tuple[str, str], list[str]](list)
    try:
        for item in itertools.chain(compare_vectors(tables, store, manifest.space), compare_products(tables, store)):
            keys[item.table, item.kind].append(item.key)
    finally:
        store.close()
    return [
        f"keyed store: {len(names)} {kind} against {table}: {', '.join(names[:_MAX_LISTED])}"
        + (f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else "")
        for (table, kind), names in sorted(keys.items())
    ]


@with_root
def rollback(
    settings: Settings,
    to: Annotated[str, typer.Option(help="a build by name (default: the previous one)")] = "",
    space: Annotated[str, typer.Option(help="feature space (default: the default space in service)")] = "",
    release: Annotated[bool, typer.Option("--release", help="let runs publish again; no rollback")] = False,
) -> None:
    """Put the previous build of a space back in service.

    It is pinned: runs build and do not publish, until the job `publish` or --release.
    """
    builds = Builds.open(settings)
    if release:
        _release(builds, to, space)
        return
    before, now = builds.rollback(to, space)
    print(
        f"in service: {now} (was {before or 'damaged'}); it is pinned: runs build and do not publish, until "
        "`./spark-submit.sh publish` or `likeness rollback --release`"
    )


def _release(builds: Builds, to: str, space: str) -> None:
    if to:
        raise UsageError(f"--release with --to {to!r}: --release changes no build; name one of the two")
    pins = builds.release(space)
    for pin in pins:
        print(
            f"released: {pin.path}, pinned since {pin.since[:16]} UTC; the next nightly run updates it from the tables"
        )
    if not pins:
        print(f"no build{f' of space {space}' if space else ''} is pinned")


@with_root
def export(
    settings: Settings,
    out: Annotated[Path, typer.Argument(help="Parquet file to write")],
    space: Annotated[str, typer.Option(help="feature space with its hash (default: the one in service)")] = "",
    snapshot: Annotated[int | None, typer.Option(help="snapshot of the features table (default: current)")] = None,
) -> None:
    """Write the vectors of a space to a file.

    One plain Parquet file with the columns image_id, ingest_date, vector, norm.
    """
    tables = TableReader(settings)
    spaces = sorted({part.space for part in tables.partitions(FEATURES)})
    space = space or Builds.open(settings).find().space
    if space not in spaces:
        raise UsageError(f"--space {space!r} has no vectors; the spaces are: {', '.join(spaces) or 'none'}")
    draft = out.with_name(f".{out.name}.draft")
    try:
        rows = _write_vectors(draft, tables, space, snapshot)
        draft.replace(out)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror}; name a file that can be written") from None
    finally:
        draft.unlink(missing_ok=True)
    print(f"{rows} vectors of {space} in {out}")


def _write_vectors(path: Path, tables: TableReader, space: str, snapshot: int | None) -> int:
    """Writes a Parquet file, and returns its number of rows."""
    columns = ("image_id", "ingest_date", "vector", "norm")
    rows, writer = 0, None
    try:
        for batch in tables.batches(FEATURES, columns, f"space = '{space}'", snapshot):
            plain = _plain(batch)
            writer = writer or pq.ParquetWriter(path, plain.schema, compression="zstd", use_dictionary=False)
            writer.write_batch(plain)
            rows += plain.num_rows
    finally:
        if writer:
            writer.close()
    if not rows:
        raise UsageError(f"--snapshot {snapshot} has no vectors of {space}")
    return rows


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Converts a batch for plain readers: fixed-size float32 lists, no field ids."""
    dim = len(batch.column("vector")[0])
    values = batch.column("vector").flatten().cast(pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(values, dim)
    columns = [batch.column("image_id").cast(pa.string()), batch.column("ingest_date"), vectors, batch.column("norm")]
    return pa.RecordBatch.from_arrays(columns, names=["image_id", "ingest_date", "vector", "norm"])
