"""`likeness verify`, `rollback`, `export`: whether a root is whole, the build before, and its vectors as a file."""

import itertools
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from likeness import storage
from likeness.cli.common import AsJson, Assignments, Config, Root, load, show_json
from likeness.core.errors import DataError, ServiceError, UsageError
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.ops import consistency
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

_NAMED = 20


def verify(
    root: Root = None,
    build: Annotated[str, typer.Option(help="a build by name (default: the one in service)")] = "",
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Check a build: checksums, loads every shard, counts against the tables and the keyed store."""
    settings = load(root, config, assignments)
    builds = Builds(settings.root, settings.extract.cache)
    manifest = builds.find(build)
    problems = builds.problems(manifest) or _load_all(builds, manifest)
    problems += _against_tables(TableReader(settings), manifest)
    apart = _against_store(settings, manifest)
    if as_json:
        show_json({"build": manifest.path, "ok": not problems + apart, "problems": problems + apart})
    elif not problems + apart:
        print(
            f"{manifest.path} is whole: {len(manifest.shards)} shards, {manifest.vectors} vectors of "
            f"{manifest.images} images and {manifest.products} products; tables and keyed store agree"
        )
    if problems or apart:
        told = "" if as_json else ":\n  " + "\n  ".join(problems + apart)
        remedies = ["`likeness rollback` goes back to the build before"] * bool(problems)
        remedies += ["`./spark-submit.sh load --set keyed.reload=true` puts the keyed store right"] * bool(apart)
        raise DataError(f"{manifest.path} has {len(problems + apart)} problems{told}\n" + "\n".join(remedies))


def _load_all(builds: Builds, manifest: Manifest) -> list[str]:
    from likeness.serving.leaf import Leaf

    try:
        Leaf(builds, manifest)
    except DataError as error:
        return [str(error)]
    return []


def _against_tables(warehouse: TableReader, manifest: Manifest) -> list[str]:
    """The build must hold each active listing's image that has a vector, at the snapshots it names."""
    where = f"space = '{manifest.space}'"
    features = warehouse.read(FEATURES, ("image_id",), where, manifest.snapshots["features"])["image_id"]
    listings = warehouse.read(LISTINGS, ("image_id", "category", "active"), snapshot=manifest.snapshots["listings"])
    shown = listings.filter(pc.and_(listings["active"], pc.is_in(listings["image_id"], features)))
    pairs = shown.group_by(["category", "image_id"]).aggregate([]).num_rows
    found = []
    if len(pc.unique(features)) != len(features):
        found.append(
            f"features: {len(features) - len(pc.unique(features))} vectors of {manifest.space} are there twice"
        )
    held = sum(manifest.categories().values())
    if pairs != held:
        found.append(f"the tables list {pairs} (category, image) pairs with a vector, the build holds {held}")
    return found


def _against_store(settings: Settings, manifest: Manifest) -> list[str]:
    """Every row that the keyed store and the tables disagree on, the first of each kind named."""
    warehouse = TableReader(settings)
    try:
        store = storage.keyed(storage.keyed_uri(settings.keyed.uri, settings.root))
    except ServiceError as error:
        return [str(error)]
    found: dict[tuple[str, str], list[str]] = {}
    try:
        for item in itertools.chain(
            consistency.vectors(warehouse, store, manifest.space), consistency.products(warehouse, store)
        ):
            found.setdefault((item.table, item.kind), []).append(item.key)
    finally:
        store.close()
    return [
        f"keyed store: {len(names)} {kind} against {table}: {', '.join(names[:_NAMED])}"
        + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
        for (table, kind), names in sorted(found.items())
    ]


def rollback(
    root: Root = None,
    to: Annotated[str, typer.Option(help="a build by name (default: the one before)")] = "",
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Put the previous build back in service."""
    settings = load(root, config, assignments)
    before, now = Builds(settings.root).rollback(to)
    print(f"in service: {now} (was {before or 'damaged'}); the next nightly run brings it up to the tables")


def export(
    out: Annotated[Path, typer.Argument(help="a Parquet file to write")],
    root: Root = None,
    space: Annotated[str, typer.Option(help="feature space with its hash (default: the one in service)")] = "",
    snapshot: Annotated[int | None, typer.Option(help="snapshot of the features table (default: now)")] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Write the vectors of a snapshot as one plain Parquet file: image_id, ingest_date, vector, norm."""
    settings = load(root, config, assignments)
    warehouse = TableReader(settings)
    known = sorted({part["space"] for part in warehouse.partitions(FEATURES)})
    wanted = space or Builds(settings.root).find().space
    if wanted not in known:
        raise UsageError(f"--space {wanted!r}: no such vectors; there are: {', '.join(known) or 'none'}")
    columns = ("image_id", "ingest_date", "vector", "norm")
    rows, writer = 0, None
    draft = out.with_name(f".{out.name}.draft")
    try:
        for batch in warehouse.batches(FEATURES, columns, f"space = '{wanted}'", snapshot):
            plain = _plain(batch)
            writer = writer or pq.ParquetWriter(draft, plain.schema, compression="zstd", use_dictionary=False)
            writer.write_batch(plain)
            rows += plain.num_rows
        if writer is None:
            raise UsageError(f"--snapshot {snapshot}: it has no vectors of {wanted}")
        writer.close()
        draft.replace(out)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror}; name a file that can be written") from None
    finally:
        draft.unlink(missing_ok=True)
    print(f"{rows} vectors of {wanted} in {out}")


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """As plain readers like it: fixed-size float32 lists, no field ids."""
    dim = len(batch.column("vector")[0])
    values = batch.column("vector").flatten().cast(pa.float32())
    vectors = pa.FixedSizeListArray.from_arrays(values, dim)
    columns = [
        batch.column("image_id").cast(pa.string()),
        batch.column("ingest_date"),
        vectors,
        batch.column("norm"),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["image_id", "ingest_date", "vector", "norm"])
