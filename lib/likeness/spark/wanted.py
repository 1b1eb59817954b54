"""Which photos an extraction takes up: a scope in, the photos that a space lacks, in chunks, out.   [pyspark]

The tables of photos and listings are read as they stood when the run began: what another run takes in meanwhile
belongs to the next one, or the counts would not add up.
"""

import datetime
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from likeness.matrix import Scope
from likeness.spark.run import Run
from likeness.tables import FAILURES, FEATURES, IMAGES, LISTINGS
from likeness.warehouse import row_groups

_DIGITS, _ABOVE = 3, "g"  # a chunk is cut at these digits of an image_id; `g` is above every id


_PIECES = pa.schema(
    [("task", pa.int32()), ("uri", pa.string()), ("group", pa.int32()), ("image_ids", pa.list_(pa.string()))]
)
_FEWEST = 16


@dataclass(frozen=True)
class Chunk:
    """The wanted photos of an epoch whose image_id is at least `low` and below `high`, and how many these are."""

    epoch: datetime.date
    low: str
    high: str
    photos: int

    @property
    def mine(self) -> Column:
        """Whether a row is of it."""
        return (F.col("epoch") == self.epoch) & (F.col("image_id") >= self.low) & (F.col("image_id") < self.high)


def portions(photos: int, cores: int) -> list[int]:
    """How many photos each task takes: in the end ever fewer, so that all cores are done at nearly the same time.

    Each takes a share of what is left (guided self-scheduling, Polychronopoulos and Kuck 1987), and never more than
    an eighth of its core's, so that there is progress to be seen.
    """
    found, left, most = list[int](), photos, -(-photos // (8 * cores))
    while left:
        found.append(min(left, max(_FEWEST, min(most, -(-left // (2 * cores))))))
        left -= found[-1]
    return found


class Wanted:
    """The photos of a scope that the run's space lacks; what failed before is left out unless it is a retry."""

    def __init__(self, run: Run, scope: Scope, retry: bool = False) -> None:
        self.retry, self._run, self._scope = retry, run, scope
        self._images, self._listings = run.lake.snapshot(IMAGES), run.lake.snapshot(LISTINGS)

    @property
    def name(self) -> str:
        """Tells all of these photos in this space from any others."""
        return f"{self._run.space.id} of images {self._images}"

    def table(self) -> DataFrame:
        """`images` as it stood when the run began."""
        return self._run.lake.read(IMAGES, self._images)

    def photos(self) -> DataFrame:
        """(image_id, epoch, size, file, pos) of the scope: the data file, and the row in it."""
        rows, scope = self.table().selectExpr("image_id", "epoch", "size", "_file file", "_pos pos"), self._scope
        if scope.first:
            rows = rows.where(F.col("epoch") >= F.lit(scope.first))
        if scope.last:
            rows = rows.where(F.col("epoch") <= F.lit(scope.last))
        if scope.category is not None:
            listings = self._run.lake.read(LISTINGS, self._listings)
            shown = listings.where(F.col("active") & (F.col("category") == F.lit(scope.category)))
            rows = rows.join(shown.select("image_id"), "image_id", "left_semi")
        return rows

    @functools.cached_property
    def lacking(self) -> DataFrame:
        """The rows of those of the scope that have neither vector nor failure; sought once, for all chunks."""
        return self._lacking().persist()

    def close(self) -> None:
        """Lets go of them."""
        if "lacking" in self.__dict__:
            self.lacking.unpersist()

    def _lacking(self) -> DataFrame:
        here = self._run.lake.read(FEATURES).where(F.col("space") == self._run.space.id).select("image_id")
        lacking = self.photos().join(here, "image_id", "left_anti")
        if self.retry or self._run.lake.snapshot(FAILURES) is None:
            return lacking
        return lacking.join(self._failed(), "image_id", "left_anti")

    def pieces(self, chunk: Chunk, cores: int) -> pa.Table:
        """The photos of a chunk, (task, uri, group, image_ids): a row a part of a row group of a file."""
        keys = self.lacking.where(chunk.mine).select("image_id", "file", "pos").toArrow()
        keys = keys.sort_by([("file", "ascending"), ("pos", "ascending")])
        names, places = keys["image_id"].to_pylist(), keys["pos"].to_numpy()
        groups = np.empty(len(names), np.int64)
        for uri, run in itertools.groupby(range(len(names)), key=keys["file"].to_pylist().__getitem__):
            mine = np.fromiter(run, np.int64)
            groups[mine] = np.searchsorted(np.cumsum(row_groups(uri)), places[mine], "right")
        sizes = portions(len(names), cores)
        tasks = np.repeat(np.arange(len(sizes)), sizes)
        whole = zip(tasks.tolist(), keys["file"].to_pylist(), groups.tolist(), names, strict=True)
        rows = [(*place, [one[3] for one in run]) for place, run in itertools.groupby(whole, key=lambda one: one[:3])]
        return pa.Table.from_pylist([dict(zip(_PIECES.names, one, strict=True)) for one in rows], schema=_PIECES)

    def standing(self) -> int:
        """How many of the scope stand failed."""
        if self._run.lake.snapshot(FAILURES) is None:
            return 0
        failed = self._failed()
        return (failed.join(self.photos(), "image_id", "left_semi") if self._scope else failed).count()

    def chunks(self) -> Iterator[Chunk]:
        """What lacks in ranges of the ids of an epoch, near to even."""
        if self._images is None:
            return
        first = F.substring("image_id", 1, _DIGITS).alias("first")
        counts = self.lacking.groupBy("epoch", first).count().orderBy("epoch", "first").collect()
        for epoch, rows in itertools.groupby(counts, key=lambda row: row.epoch):
            low, held = "", 0
            for row in rows:
                if held and held + row["count"] > self._run.settings.extract.chunk_images:
                    yield Chunk(epoch, low, row.first, held)
                    low, held = row.first, 0
                held += row["count"]
            yield Chunk(epoch, low, _ABOVE, held)

    def _failed(self) -> DataFrame:
        space = self._run.space.id
        rows = self._run.lake.read(FAILURES).where((F.col("stage") == "extract") & (F.col("space") == space))
        return rows.select(F.col("what").alias("image_id"))
