"""Extract: photos that a space lacks in, rows of `features` out.   [pyspark]

Workers write Parquet files beside the table with pyarrow, and the driver commits a chunk's files at once:
no vector passes through the JVM, and a killed chunk leaves files that nobody refers to.
"""

import dataclasses
import functools
import itertools
import os
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness import stores, uris
from likeness.backbones import Space
from likeness.features import Extracted, Extractor
from likeness.images import BadImage
from likeness.runtimes import Machine, open_runtime, prepare, shelf
from likeness.settings import Extract, Limits, Settings
from likeness.spark import ledger
from likeness.spark.progress import watched
from likeness.spark.run import Run
from likeness.spark.session import DataFile
from likeness.tables import FAILURES, FEATURES, IMAGES

_RESULT = pa.schema(
    [
        ("file", pa.string()),
        ("rows", pa.int64()),
        ("what", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
_RESULT_DDL = "file string, rows long, what string, reason string, detail string"
_MIN_SPLIT, _TASKS_A_CORE = 4 << 20, 16
_DIGITS, _ABOVE = 3, "g"  # a chunk is cut at these digits of an image_id; `g` is above every id


@dataclass(frozen=True)
class Task:
    """What a worker needs to know."""

    space: Space
    settings: Extract
    limits: Limits
    machine: Machine
    epoch: Any
    folder: str


def extract(run: Run, retry: bool = False) -> None:
    """Extracts every photo that the run's space lacks.

    Args:
        run: the run; its facts get wanted = extracted + failed.
        retry: tries again what failed before.
    """
    with run.stage("extract") as facts:
        facts |= {"wanted": 0, "extracted": 0, "failed": 0}
        chunks = [] if _complete(run, retry) else list(_plan(run, retry))
        facts["wanted"] = sum(rows for *_, rows in chunks)
        if chunks:
            prepare(run.space, run.settings.extract.runtime, _machine(run.settings))
        with run.reporter.bar("extract", facts["wanted"], "photos") as bar:
            for epoch, low, high, rows in chunks:
                done = facts["extracted"] + facts["failed"]
                with watched(run, bar, done, rows):
                    _extract_chunk(run, (epoch, low, high), retry, facts)
                said = facts["extracted"] + facts["failed"]
                run.say(f"extract: committed {said} of {facts['wanted']}")
        run.must_add_up("extract", "wanted", "extracted", "failed")
        facts["standing_failures"] = len(ledger.standing(run, "extract", run.space.id))
        facts["complete"] = run.space.id
        if facts["standing_failures"]:
            run.gate_failures("extract", facts["standing_failures"], run.lake.read(IMAGES).count())


def _complete(run: Run, retry: bool) -> bool:
    """Whether the last run extracted all there was, and no table changed since."""
    return not retry and run.last_facts("extract", IMAGES, FEATURES, FAILURES).get("complete") == run.space.id


def _lacking(run: Run, retry: bool) -> DataFrame:
    """(image_id, epoch, size) of the photos that the space lacks, failed ones only for a retry."""
    lake = run.lake
    here = lake.read(FEATURES).where(F.col("space") == run.space.id).select("image_id")
    lacking = lake.read(IMAGES).select("image_id", "epoch", "size").join(here, "image_id", "left_anti")
    if retry or lake.snapshot(FAILURES) is None:
        return lacking
    return lacking.join(_failed(run), "image_id", "left_anti")


def _failed(run: Run) -> DataFrame:
    rows = run.lake.read(FAILURES).where((F.col("stage") == "extract") & (F.col("space") == run.space.id))
    return rows.select(F.col("what").alias("image_id"))


def _plan(run: Run, retry: bool) -> Iterator[tuple[Any, str, str, int]]:
    """Chunks (epoch, first id, id after the last, photos): ranges of the ids of an epoch, near to even."""
    first = F.substring("image_id", 1, _DIGITS).alias("first")
    counts = _lacking(run, retry).groupBy("epoch", first).count().orderBy("epoch", "first").collect()
    for epoch, rows in itertools.groupby(counts, key=lambda row: row.epoch):
        low, held = "", 0
        for row in rows:
            if held and held + row["count"] > run.settings.extract.chunk_images:
                yield epoch, low, row.first, held
                low, held = row.first, 0
            held += row["count"]
        yield epoch, low, _ABOVE, held


def _extract_chunk(run: Run, chunk: tuple[Any, str, str], retry: bool, facts: dict[str, Any]) -> None:
    epoch, low, high = chunk
    lake, spark = run.lake, run.lake.spark
    mine = (F.col("epoch") == epoch) & (F.col("image_id") >= low) & (F.col("image_id") < high)
    wanted = _lacking(run, retry).where(mine).toArrow()
    split = max(_MIN_SPLIT, sum(wanted["size"].to_pylist()) // (spark.sparkContext.defaultParallelism * _TASKS_A_CORE))
    photos = lake.read(IMAGES, **{"split-size": split}).where(mine).select("image_id", "bytes")
    keys = F.broadcast(spark.createDataFrame(wanted.select(["image_id"])))
    folder = uris.join(lake.location(FEATURES), "data", run.space.id, str(epoch))
    task = Task(run.space, run.settings.extract, run.settings.limits, _machine(run.settings), epoch, folder)
    results = photos.join(keys, "image_id", "left_semi").mapInArrow(_worker(task), _RESULT_DDL).collect()
    files = [DataFile(row.file, row.rows) for row in results if row.file]
    failed = {row.what: BadImage(row.reason, row.detail) for row in results if row.what}
    run.guard()
    added = lake.append_files(FEATURES, files, (run.space.id, str(epoch)))
    healed = set(wanted["image_id"].to_pylist()) - failed.keys() if retry else ()
    ledger.record(run, "extract", run.space.id, failed, healed)
    facts["extracted"] += added
    facts["failed"] += len(failed)


def _worker(task: Task) -> Any:
    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        photos = (
            (key.as_py(), data.as_py())
            for batch in batches
            for key, data in zip(batch.column("image_id"), batch.column("bytes"), strict=True)
        )
        first = next(photos, None)
        if first is None:
            return
        extractor = _extractor(task.space, task.settings, task.limits, task.machine, _gpu())
        rows = list(_write(task, extractor.run(_chain(first, photos))))
        yield pa.RecordBatch.from_pylist(rows, schema=_RESULT)

    return work


def _chain(first: tuple[str, bytes], rest: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    yield first
    yield from rest


def _machine(settings: Settings) -> Machine:
    """A machine of the cluster: one thread a network, for each core has a worker of its own."""
    return Machine(settings.extract.cache, 1, shelf(settings.root))


def _gpu() -> str:
    """The CUDA device that Spark assigned to this task; empty where GPUs are not scheduled."""
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context else None
    return f"cuda:{gpus.addresses[0]}" if gpus and gpus.addresses else ""


@functools.cache
def _extractor(space: Space, settings: Extract, limits: Limits, machine: Machine, device: str) -> Extractor:
    """One network a worker process and device, however many tasks it runs."""
    runtime = open_runtime(space, settings.runtime, dataclasses.replace(machine, device=device))
    return Extractor(space, runtime, settings, limits)


def _write(task: Task, batches: Iterator[Extracted]) -> Iterator[dict[str, Any]]:
    """Writes one Parquet file; yields its row, and one for each failure."""
    schema, rows = FEATURES.arrow(), 0
    with tempfile.TemporaryDirectory(prefix="likeness-features-") as scratch:
        path = Path(scratch, "part.parquet")
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["space"]) as writer:
            for batch in batches:
                for what, bad in batch.failures:
                    yield {"what": what, "reason": bad.reason, "detail": bad.detail}
                if batch.keys:
                    writer.write_batch(_record_batch(task, batch, schema))
                    rows += len(batch.keys)
        if rows:
            uri = uris.join(task.folder, f"{uuid.uuid4().hex}-{os.getpid()}.parquet")
            stores.files(uri).upload(str(path), uri)
            yield {"file": uri, "rows": rows}


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
