"""Extract: photos that a space lacks in, rows of `features` out.   [pyspark]

Workers read photos from the table's Parquet files and write others beside the table, both with pyarrow; the driver
commits a chunk's files at once. No photo and no vector passes through the JVM, and a killed chunk leaves files that
nobody refers to.
"""

import ctypes
import dataclasses
import functools
import itertools
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import Row

from likeness import stores, uris
from likeness.backbones import Space
from likeness.features import Extracted, Extractor
from likeness.images import BadImage
from likeness.matrix import Scope
from likeness.runtimes import Machine, machine, open_runtime, prepare
from likeness.settings import Extract, Limits, Settings
from likeness.spark import ledger
from likeness.spark.lake import DataFile
from likeness.spark.progress import watched
from likeness.spark.run import Run
from likeness.spark.wanted import Chunk, Wanted
from likeness.spark.workers import in_workers
from likeness.tables import FAILURES, FEATURES
from likeness.warehouse import photos
from likeness.words import duration

_RESULT = pa.schema(
    [
        ("file", pa.string()),
        ("rows", pa.int64()),
        ("what", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("read", pa.float64()),
        ("decode", pa.float64()),
        ("model", pa.float64()),
        ("worker", pa.string()),
        ("networks", pa.int64()),
        ("gpu", pa.string()),
        ("busy", pa.float64()),
    ]
)
_ROW_GROUP = 16_000_000
"""Bytes of a row group, that are held until it is written."""
_SPENT = {"read": "reading", "decode": "waiting for decoders", "model": "in the network"}
_ALL = Scope()
_M_MMAP_THRESHOLD = -3


@dataclass(frozen=True)
class Task:
    """What a worker needs to know."""

    space: Space
    settings: Extract
    limits: Limits
    machine: Machine
    epoch: Any
    folder: str


def extract(run: Run, retry: bool = False, scope: Scope = _ALL) -> None:
    """Extracts every photo that the run's space lacks.

    Args:
        run: the run; its facts get wanted = extracted + failed.
        retry: tries again what failed before.
        scope: leaves all other photos alone.
    """
    with run.stage("extract") as facts, closing(Wanted(run, scope, retry)) as wanted:
        facts |= {"wanted": 0, "extracted": 0, "failed": 0}
        chunks = [] if _complete(run, wanted) else list(wanted.chunks())
        told, begun = list[Row](), time.monotonic()
        facts["wanted"] = sum(chunk.photos for chunk in chunks)
        if chunks:
            prepare(run.space, run.settings.extract.runtime, _machine(run.settings))
        with run.reporter.bar("extract", facts["wanted"], "photos") as bar:
            for chunk in chunks:
                done = facts["extracted"] + facts["failed"]
                with watched(run, bar, done, chunk.photos):
                    told += _extract_chunk(run, chunk, wanted, facts)
                said = facts["extracted"] + facts["failed"]
                run.say(f"extract: committed {said} of {facts['wanted']}")
        if told:
            facts |= _effort(told, time.monotonic() - begun)
            run.say(f"extract: {_shares(facts['worker_seconds'])}")
        run.must_add_up("extract", "wanted", "extracted", "failed")
        facts["standing_failures"] = wanted.standing()
        if scope:
            facts["scope"] = str(scope)
        else:
            facts["complete"] = wanted.name
        if facts["standing_failures"]:
            run.gate_failures("extract", facts["standing_failures"], wanted.photos().count())


def _effort(told: Sequence[Row], seconds: float) -> dict[str, Any]:
    """What the tasks say: seconds by what they went into, worker processes, networks that these loaded.

    With GPUs, also the share of the stage's seconds in which they were at work.
    """
    found: dict[str, Any] = {
        "worker_seconds": {name: round(sum(row[name] for row in told), 1) for name in _SPENT},
        "workers": len({row.worker for row in told}),
        "networks": sum(row.networks for row in told),
    }
    busy, gpus = sum(row.busy for row in told), len({row.gpu for row in told})
    return found | ({"gpu_busy": round(min(1.0, busy / (seconds * gpus)), 3)} if busy else {})


def _shares(seconds: Mapping[str, float]) -> str:
    """In words: a network that waits wants more decoders, or a faster disk."""
    whole = sum(seconds.values())
    each = ", ".join(f"{seconds[name] / (whole or 1):.0%} {doing}" for name, doing in _SPENT.items())
    return f"workers spent {duration(whole)}: {each}"


def _complete(run: Run, wanted: Wanted) -> bool:
    """Whether an earlier run extracted all there was, and no table changed since."""
    return not wanted.retry and run.last_facts("extract", FEATURES, FAILURES).get("complete") == wanted.name


def _extract_chunk(run: Run, chunk: Chunk, wanted: Wanted, facts: dict[str, Any]) -> list[Row]:
    """Extracts and commits a chunk; what its tasks say of their work."""
    lake, spark, epoch = run.lake, run.lake.spark, chunk.epoch
    pieces = wanted.pieces(chunk, spark.sparkContext.defaultParallelism)
    folder = uris.join(lake.location(FEATURES), "data", run.space.id, str(epoch))
    task = Task(run.space, run.settings.extract, run.settings.limits, _machine(run.settings), epoch, folder)
    tasks = max(pieces["task"].to_pylist(), default=0) + 1
    placed = spark.createDataFrame(pieces).repartitionById(tasks, "task")
    results = in_workers(placed, _worker(task), _RESULT).collect()
    files = [DataFile(row.file, row.rows) for row in results if row.file]
    failed = {row.what: BadImage(row.reason, row.detail) for row in results if row.what}
    run.guard()
    added = lake.append_files(FEATURES, files, (run.space.id, str(epoch)))
    asked = {key for keys in pieces["image_ids"].to_pylist() for key in keys}
    healed = asked - failed.keys() if wanted.retry else ()
    ledger.record(run, "extract", run.space.id, failed, healed)
    facts["extracted"] += added
    facts["failed"] += len(failed)
    return [row for row in results if row.worker]


def _worker(task: Task) -> Any:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        pieces = [piece for batch in batches for piece in batch.to_pylist()]
        if not pieces:
            return
        opened, gpu = _extractor.cache_info().misses, _gpu()
        extractor = _extractor(task.space, task.settings, task.limits, task.machine, gpu)
        networks, busy = _extractor.cache_info().misses - opened, extractor.busy_s
        found = (photos(one["uri"], one["group"], frozenset(one["image_ids"])) for one in pieces)
        rows = list(_write(task, extractor.run(itertools.chain.from_iterable(found))))
        rows[-1] |= {
            "worker": f"{platform.node()} {os.getpid()}",
            "networks": networks,
            "gpu": f"{platform.node()} {gpu}",
            "busy": extractor.busy_s - busy,
        }
        yield pa.RecordBatch.from_pylist(rows, schema=_RESULT)

    return work


def _machine(settings: Settings) -> Machine:
    """A machine of the cluster: one thread a network, for each core has a worker of its own."""
    return machine(settings, 1)


def _gpu() -> str:
    """The CUDA device that Spark assigned to this task; empty where GPUs are not scheduled."""
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context else None
    return f"cuda:{gpus.addresses[0]}" if gpus and gpus.addresses else ""


@functools.cache
def _extractor(space: Space, settings: Extract, limits: Limits, machine: Machine, device: str) -> Extractor:
    """One network a worker process and device, however many tasks it runs."""
    _give_back()
    runtime = open_runtime(space, settings.runtime, dataclasses.replace(machine, device=device))
    return Extractor(space, runtime, settings, limits)


def _give_back() -> None:
    """Has glibc map memory of the size of a photo by itself, so that it goes back when the photo does.

    On its heap photos of all sizes would leave holes, and a worker would grow with each larger photo.
    """
    with suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 16)


def _write(task: Task, batches: Iterator[Extracted]) -> Iterator[dict[str, Any]]:
    """Writes one Parquet file; yields a row for each failure, and in the end one of all of it."""
    schema, rows, spent = FEATURES.arrow(), 0, dict.fromkeys(_SPENT, 0.0)
    group = list[pa.RecordBatch]()
    with tempfile.TemporaryDirectory(prefix="likeness-features-") as scratch:
        path = Path(scratch, "part.parquet")
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["space"]) as writer:
            for batch in batches:
                spent = {name: seconds + batch.seconds[name] for name, seconds in spent.items()}
                for what, bad in batch.failures:
                    yield {"what": what, "reason": bad.reason, "detail": bad.detail}
                if batch.keys:
                    group.append(_record_batch(task, batch, schema))
                    rows += len(batch.keys)
                if sum(part.nbytes for part in group) >= _ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(group))
                    group.clear()
            if group:
                writer.write_table(pa.Table.from_batches(group))
        told: dict[str, Any] = {}
        if rows:
            uri = uris.join(task.folder, f"{uuid.uuid4().hex}-{os.getpid()}.parquet")
            stores.files(uri).upload(str(path), uri)
            told = {"file": uri, "rows": rows}
        yield told | spent


def _record_batch(task: Task, batch: Extracted, schema: pa.Schema) -> pa.RecordBatch:
    rows, dim = batch.vectors.shape
    offsets = np.arange(0, (rows + 1) * dim, dim, dtype=np.int32)
    vectors = pa.ListArray.from_arrays(offsets, batch.vectors.ravel(), type=schema.field("vector").type)
    norms = np.linalg.norm(batch.vectors.astype(np.float64), axis=1)
    columns = [
        pa.array(batch.keys),
        pa.array([task.space.id] * rows),
        pa.array([task.epoch] * rows),
        vectors,
        norms,
    ]
    return pa.RecordBatch.from_arrays([pa.array(c) if isinstance(c, np.ndarray) else c for c in columns], schema=schema)
