"""One shard: a stream of Arrow batches in, index and id map uploaded, their record out.   [faiss]

Vectors are spooled to a local file, so memory is bounded by the index itself.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from likeness import stores, uris
from likeness.errors import DataError
from likeness.indexes import metrics
from likeness.indexes.kinds import kind
from likeness.indexes.plan import PlannedShard
from likeness.manifest import File, Recall, Shard, checksum_of
from likeness.settings import Index

ROWS = 8192
IDS = pa.schema(
    [
        ("id", pa.int64()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("products", pa.list_(pa.string())),
    ]
)
"""The id map of a shard, sorted by id."""


@dataclass(frozen=True)
class Order:
    """What to build, and where."""

    folder: str
    space: str
    dim: int
    settings: Index


def faiss_id(image_id: str) -> int:
    """The first 63 bits of the image_id: stable, positive, never a position."""
    return int(image_id[:16], 16) >> 1


def build_shard(shard: PlannedShard, batches: Iterable[pa.RecordBatch], order: Order) -> Shard:
    """Builds, audits and uploads one shard.

    Args:
        shard: its place in the plan.
        batches: columns image_id, uri, products, vector, sorted by image_id.
        order: what to build, and where.

    Raises:
        DataError: two images share an id, or a vector has another dimension.
    """
    with tempfile.TemporaryDirectory(prefix="likeness-shard-") as folder:
        ids, vectors = _spool(batches, order, Path(folder))
        _refuse_collisions(ids)
        index = faiss.IndexIDMap2(
            kind(order.settings.kind).make(order.dim, metrics.faiss_metric(order.settings.metric))
        )
        keys = ids["id"].to_numpy()
        for start in range(0, len(keys), ROWS):
            index.add_with_ids(np.ascontiguousarray(vectors[start : start + ROWS]), keys[start : start + ROWS])
        recall = audit(index, keys, vectors, order.settings, seed=shard.number)
        stem = f"shard-{shard.number:05d}"
        faiss.write_index(index, f"{folder}/{stem}.faiss")
        with pa.OSFile(f"{folder}/{stem}.arrow", "wb") as sink, pa.ipc.new_file(sink, IDS) as writer:
            writer.write_table(ids)
        files = [_upload(Path(folder, f"{stem}.{end}"), order.folder) for end in ("faiss", "arrow")]
    return Shard(
        number=shard.number,
        category=shard.category,
        part=shard.part,
        parts=shard.parts,
        vectors=len(keys),
        recall=recall,
        index=files[0],
        ids=files[1],
    )


def audit(index: faiss.Index, keys: np.ndarray, vectors: np.ndarray, settings: Index, seed: int) -> Recall:
    """Recall@k of an index against exact search over the same prepared vectors, float32 (n, dim).

    The queries are held out: midpoints of random pairs, in the distribution of the rows but (of two or more)
    none of them.
    A row as near as the k-th nearest (to 1e-5) counts as found, so that ties are not held against the index.
    """
    rows = len(keys)
    k = min(settings.audit_k, rows)
    rng = np.random.default_rng(seed)
    first = rng.integers(0, rows, settings.audit_queries)
    other = (first + rng.integers(1, max(2, rows), settings.audit_queries)) % rows
    middle = (vectors[first] + vectors[other]) / 2
    queries = metrics.prepared(middle, settings.metric)
    _, found = index.search(queries, k)
    best = np.full((len(queries), k), -np.inf, np.float32)
    scored = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, rows, ROWS):
        scores = metrics.exact_scores(queries, vectors[start : start + ROWS], settings.metric)
        best = -np.partition(-np.concatenate([best, scores], axis=1), k - 1, axis=1)[:, :k]
        chunk = keys[start : start + ROWS]
        place = np.searchsorted(chunk, found).clip(0, len(chunk) - 1)
        here = chunk[place] == found
        scored = np.where(here, np.take_along_axis(scores, place, axis=1), scored)
    kth = best.min(axis=1, keepdims=True)
    tolerance = 1e-5 * np.maximum(1, np.abs(kth))
    return Recall(k=k, queries=len(queries), value=float((scored >= kth - tolerance).mean()))


def _spool(batches: Iterable[pa.RecordBatch], order: Order, folder: Path) -> tuple[pa.Table, np.ndarray]:
    maps, rows = [], 0
    with (folder / "vectors.f32").open("wb") as file:
        for batch in batches:
            lists = batch.column("vector")
            flat = np.asarray(lists.flatten(), np.float32)
            if not pc.all(pc.equal(pc.list_value_length(lists), order.dim)).as_py() or not np.isfinite(flat).all():
                raise DataError(
                    f"a vector of {order.space} has not {order.dim} finite values; the features table is damaged"
                )
            file.write(metrics.prepared(flat.reshape(-1, order.dim), order.settings.metric).tobytes())
            image_ids = batch.column("image_id")
            ids = pa.array([faiss_id(key) for key in image_ids.to_pylist()], pa.int64())
            columns = [ids, image_ids, batch.column("uri"), batch.column("products")]
            maps.append(
                pa.RecordBatch.from_arrays([c.cast(f.type) for c, f in zip(columns, IDS, strict=True)], schema=IDS)
            )
            rows += len(lists)
    vectors = np.memmap(folder / "vectors.f32", np.float32, "r", shape=(rows, order.dim))
    return pa.Table.from_batches(maps, IDS).combine_chunks(), vectors


def _refuse_collisions(ids: pa.Table) -> None:
    keys = ids["id"].to_numpy()
    same = np.flatnonzero(keys[1:] <= keys[:-1])
    if len(same):
        first, second = (ids["image_id"][int(same[0]) + step].as_py() for step in (0, 1))
        raise DataError(f"images {first} and {second} share the id {keys[same[0]]} or are out of order; remove one")


def _upload(path: Path, folder: str) -> File:
    with path.open("rb") as file:
        checksum = checksum_of(file)
    uri = uris.join(folder, path.name)
    stores.files(uri).upload(str(path), uri)
    return File(name=path.name, bytes=path.stat().st_size, sha256=checksum)
