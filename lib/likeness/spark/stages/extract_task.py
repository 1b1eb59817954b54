"""One task of an extraction: rows of data files in, Parquet files of vectors and failures out.   [pyspark]

It runs in a Spark worker, which keeps its network and its decoders from task to task.
"""

import ctypes
import dataclasses
import datetime
import functools
import itertools
import os
import platform
import struct
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext

from likeness import storage
from likeness.core import malloc, uris
from likeness.core.settings import Extract, Limits
from likeness.models.backbones import Space, concatenated
from likeness.models.extracted_batch import ExtractedBatch
from likeness.models.extractor import Extractor
from likeness.models.runtimes import Machine, open_runtime
from likeness.spark.arrow_map import rows_of
from likeness.storage.data_files import photos
from likeness.storage.items import WHOLE_PHOTO
from likeness.storage.tables import FEATURES

ACTIVITIES = {"read": "reading", "decode": "waiting for decoders", "model": "in the network"}
"""The activities that a task's seconds are counted by, and their descriptions."""
_ROW_GROUP = 16_000_000
"""Bytes of a row group, which are kept in memory until it is written."""
_LARGE = 1 << 16
"""Bytes of an allocation that malloc returns to the system when it is freed; otherwise workers would keep growing."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_ATTR = struct.Struct("IIQiIQQQ")
"""Linux's struct sched_attr: size, policy, flags, nice value, priority; runtime, deadline and period in ns."""
_TIME_SLICE_NS = 20_000_000

_TEXTS = dict.fromkeys(("space", "file", "what", "reason", "detail", "worker", "gpu"), pa.string())
RESULT = pa.schema(_TEXTS | dict.fromkeys((*ACTIVITIES, "busy"), pa.float64()) | {"networks": pa.int64()})
"""A row for each failed photo and for each file of vectors; the last row has the totals of the task."""


@dataclass(frozen=True)
class Task:
    """Parameters of an extraction. One pass computes the vectors of all `spaces`; `folders` are by space id."""

    spaces: tuple[Space, ...]
    settings: Extract
    limits: Limits
    machine: Machine
    ingest_date: datetime.date
    folders: Mapping[str, str]


def extract_pieces(task: Task, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Extracts in one task: batches of `PIECES` in, one batch of `RESULT` out."""
    pieces = list(rows_of(batches))
    if not pieces:
        return
    loaded, gpu, node = _extractor.cache_info().misses, _gpu(), platform.node()
    extractor = _extractor(concatenated(task.spaces), task.settings, task.limits, task.machine, gpu)
    networks, busy = _extractor.cache_info().misses - loaded, extractor.busy_s
    images = (photos(piece["uri"], piece["group"], piece["rows"]) for piece in pieces)
    rows = list(_write(task, extractor.run(itertools.chain.from_iterable(images))))
    rows[-1] |= {"worker": f"{node} {os.getpid()}", "gpu": f"{node} {gpu}"}
    rows[-1] |= {"networks": networks, "busy": extractor.busy_s - busy}
    yield pa.RecordBatch.from_pylist(rows, schema=RESULT)


def _gpu() -> str:
    """The CUDA device that Spark assigned to this task; empty where GPUs are not scheduled."""
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context else None
    return f"cuda:{gpus.addresses[0]}" if gpus and gpus.addresses else ""


@functools.cache
def _extractor(space: Space, settings: Extract, limits: Limits, machine: Machine, device: str) -> Extractor:
    """The extractor of a worker process and device; it is created once."""
    malloc.set_mmap_threshold(_LARGE)
    lengthen_time_slice()
    runtime = open_runtime(space, settings.runtime, dataclasses.replace(machine, device=device))
    return Extractor(space, runtime, settings, limits)


def lengthen_time_slice() -> None:
    """Asks Linux for time slices of 20 ms for this process and the decoders that it starts.

    With the default of 3 ms, network and decoder would constantly evict each other from the core's cache. Linux before
    6.12 ignores the request.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform == "linux" and number:
        attributes = _SCHED_ATTR.pack(
            _SCHED_ATTR.size, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, _TIME_SLICE_NS, 0, 0
        )
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def _write(task: Task, batches: Iterator[ExtractedBatch]) -> Iterator[dict[str, Any]]:
    """Writes a Parquet file for each space, and yields the rows `RESULT`."""
    spent = dict.fromkeys(ACTIVITIES, 0.0)
    with tempfile.TemporaryDirectory(prefix="likeness-features-") as scratch:
        files = {space: _File(scratch, space.id, task.ingest_date) for space in task.spaces}
        for batch in batches:
            spent = {name: seconds + batch.seconds[name] for name, seconds in spent.items()}
            for what, bad in batch.failures:
                yield {"what": what, "reason": bad.reason, "detail": bad.detail}
            begin = 0
            for space, file in files.items():
                if batch.keys:
                    file.add(batch.keys, batch.vectors[:, begin : begin + space.dim])
                begin += space.dim
        for space, file in files.items():
            if file.rows:
                uri = uris.join(task.folders[space.id], f"{uuid.uuid4().hex}-{os.getpid()}.parquet")
                file.upload(uri)
                yield {"space": space.id, "file": uri}
        yield spent


class _File:
    """A Parquet file of vectors of one space, on this machine until it is uploaded."""

    def __init__(self, scratch: str, space: str, ingest_date: datetime.date) -> None:
        self.rows, self._space, self._ingest_date = 0, space, ingest_date
        self._group, self._path = list[pa.RecordBatch](), Path(scratch, f"{space}.parquet")
        dictionaries = ["space", "region"]
        self._writer = pq.ParquetWriter(self._path, FEATURES.arrow(), compression="zstd", use_dictionary=dictionaries)

    def add(self, keys: Sequence[str], vectors: np.ndarray) -> None:
        """Adds the vectors, float32 (n, dim), of the photos `keys`."""
        self._group.append(record_batch(self._space, self._ingest_date, keys, vectors))
        self.rows += len(keys)
        if sum(part.nbytes for part in self._group) >= _ROW_GROUP:
            self._flush()

    def upload(self, uri: str) -> None:
        """Closes the file and copies it to its place."""
        self._flush()
        self._writer.close()
        storage.files(uri).upload(str(self._path), uri)

    def _flush(self) -> None:
        if self._group:
            self._writer.write_table(pa.Table.from_batches(self._group))
        self._group.clear()


def record_batch(space: str, ingest_date: datetime.date, keys: Sequence[str], vectors: np.ndarray) -> pa.RecordBatch:
    """Rows of `features`: the vectors, float32 (n, dim), of the photos `keys` in a space."""
    rows, dim = vectors.shape
    kind = FEATURES.arrow().field("vector").type
    lists = pa.ListArray.from_arrays(np.arange(0, (rows + 1) * dim, dim, dtype=np.int32), vectors.ravel(), type=kind)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    spaces, dates, regions = (pa.repeat(value, rows) for value in (space, ingest_date, WHOLE_PHOTO))
    columns = [pa.array(keys), spaces, dates, lists, pa.array(norms), regions]
    return pa.RecordBatch.from_arrays(columns, schema=FEATURES.arrow())
