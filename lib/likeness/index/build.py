"""Build of one shard: a stream of Arrow batches in, index and id map uploaded, their record out.   [faiss]

Vectors are spooled to a local file, so memory is bounded by the index itself.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Index
from likeness.index import distance
from likeness.index.build_files import checksum_of
from likeness.index.ids import IDS, count_regions, faiss_id
from likeness.index.kinds import Kind, candidates, kind
from likeness.index.manifest import OperatingPoint, Shard
from likeness.index.populate import peak_memory, populate
from likeness.index.recall_audit import FILTERS, RecallAudit
from likeness.index.searcher import Searcher
from likeness.index.shard_plan import PlannedShard
from likeness.storage.artifact import File
from likeness.storage.items import WHOLE_PHOTO, Item


@dataclass(frozen=True)
class BuildSpec:
    """The settings of a build, and the place of its files: `build` in the space's `folder`.

    `bytes_per_vector` is the memory that a vector may take at search; a `delta` holds new rows of all categories.
    """

    folder: str
    build: str
    space: str
    dim: int
    settings: Index
    bytes_per_vector: float = float("inf")
    delta: bool = False


def refuse_memory(sizes: Sequence[int], spec: BuildSpec) -> None:
    """Checks memory before the build starts.

    Args:
        sizes: vectors of each shard.
        spec: settings and place of the build.

    Raises:
        UsageError: a shard takes more than `index.build_gb` to build, or all more than `index.memory_gb` to search.
    """
    settings, dim, searched = spec.settings, spec.dim, 0
    for rows in sorted(sizes, reverse=True):
        options = candidates(settings.kind, rows, dim, spec.bytes_per_vector * rows)
        searched += rows * min(option.bytes_per_vector(dim) for option in options)
        needed = max(peak_memory(option, rows, dim) for option in options)
        if needed > settings.build_gb * 1e9:
            fits = rows
            while fits > 1 and max(peak_memory(option, fits, dim) for option in options) > settings.build_gb * 1e9:
                fits = fits * 4 // 5
            raise UsageError(
                f"index: a shard of {rows:,} vectors takes {needed / 1e9:.1f} GB to build, index.build_gb is "
                f"{settings.build_gb}; set index.max_shard_vectors={fits}, or give tasks more memory and say so there"
            )
    if searched > settings.memory_gb * 1e9:
        raise UsageError(
            f"index: {sum(sizes):,} vectors take {searched / 1e9:.1f} GB to search as {settings.kind}, index.memory_gb "
            f'is {settings.memory_gb}; raise it to what all leaves have, or set index.kind to auto or "ivf_rabitq"'
        )


def build_shard(shard: PlannedShard, batches: Iterable[pa.RecordBatch], spec: BuildSpec) -> Shard:
    """Builds, audits and uploads one shard.

    Args:
        shard: its place in the plan.
        batches: columns image_id, region (optional, empty for the whole photo), shown, and vector (its float32 as
            bytes), sorted by `ids.digest`.
        spec: settings and place of the build.

    Raises:
        DataError: two items share an id, or a vector has another dimension.
    """
    with tempfile.TemporaryDirectory(prefix="likeness-shard-") as folder:
        ids, vectors = _spool(batches, spec, Path(folder))
        _refuse_collisions(ids)
        keys, settings = ids["id"].to_numpy(), spec.settings
        index, best, curve = _choose(keys, vectors, spec, shard.number, Path(folder))
        shares = FILTERS if kind(best.kind).params_grid != ({},) else ()
        audit = RecallAudit(vectors, settings, 2 * shard.number, shares)
        searcher = Searcher(index, kind(best.kind), best.index_params, settings.metric)
        recall, filtered = audit.recall(searcher.nearest), audit.filtered(searcher.nearest)
        stem = f"shard-{shard.number:05d}"
        faiss.write_index(index, f"{folder}/{stem}.faiss")
        with pa.OSFile(f"{folder}/{stem}.arrow", "wb") as sink, pa.ipc.new_file(sink, IDS) as writer:
            writer.write_table(ids)
        files = [_upload(Path(folder, f"{stem}.{end}"), spec) for end in ("faiss", "arrow")]
    return Shard(
        number=shard.number,
        part=shard.part,
        parts=shard.parts,
        delta=spec.delta,
        categories=_counts(ids),
        vectors=len(keys),
        regions=count_regions(ids),
        tombstoned=0,
        recall=recall,
        filtered=filtered,
        index=files[0],
        ids=files[1],
        kind=best.kind,
        index_params=best.index_params,
        curve=curve,
    )


def _counts(ids: pa.Table) -> dict[str, int]:
    """Rows by category."""
    counts = pc.value_counts(pc.struct_field(ids["shown"].combine_chunks().flatten(), "category"))
    return {str(row["values"]): row["counts"] for row in sorted(counts.to_pylist(), key=lambda row: row["values"])}


def _choose(
    keys: np.ndarray, vectors: np.ndarray, spec: BuildSpec, seed: int, folder: Path
) -> tuple[faiss.IndexIDMap, OperatingPoint, Sequence[OperatingPoint]]:
    """Chooses the first candidate that reaches `index.recall` with its fastest parameters; else the most accurate.

    Returns:
        The index, its operating point, and all points measured, by other queries than the audit's.
    """
    settings = spec.settings
    options = candidates(settings.kind, len(keys), spec.dim, spec.bytes_per_vector * len(keys))
    if len(options) == 1 and len(options[0].params_grid) == 1:
        only = OperatingPoint(kind=options[0].name, index_params={}, recall=1, ms=0)
        return _create(options[0], keys, vectors, settings, seed, folder), only, []
    trial = RecallAudit(vectors, settings, 2 * seed + 1)
    curve: list[OperatingPoint] = []
    best: tuple[faiss.IndexIDMap, OperatingPoint] | None = None
    for option in options:
        index = _create(option, keys, vectors, settings, seed, folder)
        points = list(_trials(index, option, trial, settings))
        curve += points
        highest = max(points, key=lambda point: min(point.recall, settings.recall))
        if best is None or highest.recall > best[1].recall:
            best = index, highest
        if highest.recall >= settings.recall:
            break
    assert best
    return *best, curve


def _trials(index: faiss.IndexIDMap, option: Kind, trial: RecallAudit, settings: Index) -> Iterator[OperatingPoint]:
    """Measures the kind's search parameters, from the fastest on, until the recall is high enough."""
    for params in option.params_grid:
        recall, ms = trial.timed(Searcher(index, option, params, settings.metric).nearest)
        yield OperatingPoint(kind=option.name, index_params=params, recall=recall.value, ms=round(ms, 4))
        if recall.value >= settings.recall:
            return


def _create(option: Kind, keys: np.ndarray, vectors: np.ndarray, settings: Index, seed: int, folder: Path) -> Any:
    """Creates an index of a kind that holds the vectors under their ids."""
    rows = np.sort(np.random.default_rng(seed).choice(len(keys), min(len(keys), max(option.sample, 1)), replace=False))
    empty = option.make(vectors[rows], len(keys), distance.faiss_metric(settings.metric))
    return populate(empty, vectors, keys, folder)


def _spool(batches: Iterable[pa.RecordBatch], spec: BuildSpec, folder: Path) -> tuple[pa.Table, np.ndarray]:
    """Writes the prepared vectors to a local file; returns the id map, and the vectors as a mapped file."""
    maps = []
    with (folder / "vectors.f32").open("wb") as file:
        for batch in batches:
            column = batch.column("vector")
            flat = np.frombuffer(b"".join(column.to_pylist()), "<f4")
            if not pc.all(pc.equal(pc.binary_length(column), 4 * spec.dim)).as_py() or not np.isfinite(flat).all():
                raise DataError(
                    f"a vector of {spec.space} has not {spec.dim} finite values; the features table is damaged"
                )
            file.write(distance.prepared(flat.reshape(-1, spec.dim), spec.settings.metric).tobytes())
            image_ids = batch.column("image_id")
            regions = batch["region"] if "region" in batch.schema.names else pa.repeat(WHOLE_PHOTO, len(image_ids))
            pairs = zip(image_ids.to_pylist(), regions.to_pylist(), strict=True)
            ids = pa.array([faiss_id(image_id, region) for image_id, region in pairs], pa.int64())
            columns = dict(zip(IDS.names, (ids, image_ids, regions, batch.column("shown")), strict=True))
            maps.append(pa.RecordBatch.from_pydict(columns, IDS))
    id_map = pa.Table.from_batches(maps, IDS).combine_chunks()
    return id_map, np.memmap(folder / "vectors.f32", np.float32, "r", shape=(len(id_map), spec.dim))


def _refuse_collisions(ids: pa.Table) -> None:
    keys = ids["id"].to_numpy()
    same = np.flatnonzero(keys[1:] <= keys[:-1])
    if len(same):
        rows = ids.slice(int(same[0]), 2).to_pylist()
        first, second = (Item(row["image_id"], row["region"]).key for row in rows)
        raise DataError(f"images {first} and {second} share the id {keys[same[0]]} or are out of order; remove one")


def _upload(path: Path, spec: BuildSpec) -> File:
    with path.open("rb") as file:
        checksum = checksum_of(file)
    name = f"{spec.build}/{path.name}"
    uri = uris.join(spec.folder, name)
    storage.files(uri).upload(str(path), uri)
    return File(name=name, bytes=path.stat().st_size, sha256=checksum)
