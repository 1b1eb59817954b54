"""Pending photos: a scope in; the photos without a vector in a space out, in chunks.   [pyspark]

`images` and `listings` are read at their snapshots of the start of the run. Photos that another run ingests meanwhile
are left to the next run, or the counts would not add up.
"""

import datetime
import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness.models.backbones import Space
from likeness.ops.backfill_coverage import Scope
from likeness.spark import failures
from likeness.spark.run import Run
from likeness.storage.data_files import row_groups
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS

FileRows = tuple[str, np.ndarray]
"""A data file, and some of its rows, int64 (n,), ascending."""
PIECES = pa.schema([("task", pa.int32()), ("uri", pa.string()), ("group", pa.int32()), ("rows", pa.list_(pa.int32()))])
"""Rows of a row group of a data file, with the task that reads them."""
_MIN_PORTION = 16


@dataclass(frozen=True)
class Chunk:
    """Pending photos of one ingest date, stored close together in few files. All lack vectors of the same `spaces`."""

    spaces: tuple[Space, ...]
    ingest_date: datetime.date
    files: Sequence[FileRows]

    @property
    def photos(self) -> int:
        """The number of photos."""
        return sum(len(rows) for _, rows in self.files)

    def pieces(self, cores: int) -> pa.Table:
        """The photos divided into tasks for so many cores, `PIECES`."""
        sizes = portions(self.photos, cores)
        tasks, begin, pieces = np.repeat(np.arange(len(sizes)), sizes), 0, list[tuple[int, str, int, np.ndarray]]()
        for uri, rows in self.files:
            ends = np.cumsum(row_groups(uri))
            groups = np.searchsorted(ends, rows, "right")
            file_tasks = tasks[begin : begin + len(rows)]
            begin += len(rows)
            cuts = np.flatnonzero(np.diff(file_tasks) | np.diff(groups)) + 1
            for part in np.split(np.arange(len(rows)), cuts):
                group = groups[part[0]]
                pieces.append((file_tasks[part[0]], uri, group, rows[part] - (ends[group - 1] if group else 0)))
        return pa.table([pa.array(column) for column in zip(*pieces, strict=True)], PIECES.names).cast(PIECES)


def portions(photos: int, cores: int) -> list[int]:
    """Photos of each task, fewer and fewer, so that all cores finish at nearly the same time.

    Each task gets a share of the rest (guided self-scheduling, Polychronopoulos and Kuck 1987), and at most an eighth
    of a core's share, so that the progress bar moves.
    """
    sizes, left, most = list[int](), photos, -(-photos // (8 * cores))
    while left:
        sizes.append(min(left, max(_MIN_PORTION, min(most, -(-left // (2 * cores))))))
        left -= sizes[-1]
    return sizes


class PendingImages:
    """The photos of a scope without a vector in one of the run's spaces; failed photos only with `retry`."""

    def __init__(self, run: Run, scope: Scope, retry: bool = False) -> None:
        self.retry, self._run, self._scope = retry, run, scope
        self._images, self._listings = run.tables.snapshot(IMAGES), run.tables.snapshot(LISTINGS)

    @property
    def name(self) -> str:
        """Identifies all photos of this snapshot in these spaces."""
        return f"{', '.join(space.id for space in self._run.spaces)} of images {self._images}"

    def photos(self) -> DataFrame:
        """(image_id, ingest_date, file, pos) of the photos in the scope: the data file, and the row in it."""
        images, scope = self._run.tables.read(IMAGES, self._images), self._scope
        rows = images.selectExpr("image_id", "ingest_date", "_file file", "_pos pos")
        if scope.first:
            rows = rows.where(F.col("ingest_date") >= F.lit(scope.first))
        if scope.last:
            rows = rows.where(F.col("ingest_date") <= F.lit(scope.last))
        if scope.category is not None:
            listings = self._run.tables.read(LISTINGS, self._listings)
            listed = listings.where(F.col("active") & (F.col("category") == F.lit(scope.category)))
            rows = rows.join(listed.select("image_id"), "image_id", "left_semi")
        return rows

    def _missing(self, space: str) -> DataFrame:
        extracted = self._run.tables.read(FEATURES).where(F.col("space") == space).select("image_id")
        missing = self.photos().join(extracted, "image_id", "left_anti")
        if self.retry or self._run.tables.snapshot(FAILURES) is None:
            return missing
        return missing.join(self._failed(space), "image_id", "left_anti")

    def standing(self) -> int:
        """The number of photos in the scope that stand as failed in the run's first space."""
        if self._run.tables.snapshot(FAILURES) is None:
            return 0
        failed = self._failed(self._run.space.id)
        return (failed.join(self.photos(), "image_id", "left_semi") if self._scope else failed).count()

    def chunks(self) -> Iterator[Chunk]:
        """The pending photos by ingest date, in the order of the files."""
        if self._images is None:
            return
        most = self._run.settings.extract.chunk_images
        for (spaces, ingest_date), files in sorted(self._files().items(), key=lambda item: item[0][1]):
            chunk, left = list[FileRows](), most
            for uri, rows in files:
                for part in np.split(rows, range(left, len(rows), most)):
                    chunk.append((uri, part))
                    left -= len(part)
                    if not left:
                        yield Chunk(spaces, ingest_date, tuple(chunk))
                        chunk, left = [], most
            if chunk:
                yield Chunk(spaces, ingest_date, tuple(chunk))

    def _files(self) -> dict[tuple[tuple[Space, ...], datetime.date], list[FileRows]]:
        """Pending photos by missing spaces and ingest date, as rows of data files: eight bytes a photo."""
        missing = defaultdict[tuple[datetime.date, str], dict[Space, np.ndarray]](dict)
        for space in sorted(self._run.spaces, key=lambda space: space.id):
            grouped = self._missing(space.id).groupBy("ingest_date", "file").agg(F.collect_list("pos").alias("rows"))
            columns = grouped.select("ingest_date", "file", "rows").toArrow().columns
            for ingest_date, file, rows in zip(*columns, strict=True):
                missing[ingest_date.as_py(), file.as_py()][space] = np.sort(rows.values.to_numpy())
        files = defaultdict[tuple[tuple[Space, ...], datetime.date], list[FileRows]](list)
        for (ingest_date, file), by_space in sorted(missing.items(), key=lambda item: item[0]):
            rows = functools.reduce(np.union1d, by_space.values())
            lacks = np.stack([np.isin(rows, of_space) for of_space in by_space.values()], axis=1)
            for pattern in np.unique(lacks, axis=0):
                spaces = tuple(itertools.compress(by_space, pattern))
                files[spaces, ingest_date].append((file, rows[(lacks == pattern).all(axis=1)]))
        return files

    def _failed(self, space: str) -> DataFrame:
        return failures.rows(self._run, "extract", space).select(F.col("what").alias("image_id"))
