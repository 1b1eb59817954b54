"""Which photos an extraction takes up: a scope in, the photos that a space lacks, in chunks, out.   [pyspark]

The tables of photos and listings are read as they stood when the run began: what another run takes in meanwhile
belongs to the next one, or the counts would not add up.
"""

import datetime
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from likeness.backbones import Space
from likeness.matrix import Scope
from likeness.spark.run import Run
from likeness.tables import FAILURES, FEATURES, IMAGES, LISTINGS
from likeness.warehouse import row_groups

_BLOCKS = 16
"""Parts of a chunk: it is cut at whole ones, and so may be smaller by one than it might be."""
_PIECES = pa.schema(
    [("task", pa.int32()), ("uri", pa.string()), ("group", pa.int32()), ("image_ids", pa.list_(pa.string()))]
)
_FEWEST = 16


@dataclass(frozen=True)
class Chunk:
    """The wanted photos of an epoch that lie between two places, (file, block of rows), and how many these are.

    All of them lack in the same spaces. Those that lie beside each other are taken together, so that a file is read
    for one chunk, or for two.
    """

    spaces: tuple[Space, ...]
    epoch: datetime.date
    first: tuple[str, int]
    last: tuple[str, int]
    photos: int

    @property
    def mine(self) -> Column:
        """Whether a row is of it."""
        low, high = (F.struct(F.lit(file), F.lit(block).cast("long")) for file, block in (self.first, self.last))
        of_these = F.col("spaces") == F.array(*(F.lit(space.id) for space in self.spaces))
        return of_these & (F.col("epoch") == self.epoch) & F.struct("file", "block").between(low, high)


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
    """The photos of a scope that the run's spaces lack; what failed before is left out unless it is a retry."""

    def __init__(self, run: Run, scope: Scope, retry: bool = False) -> None:
        self.retry, self._run, self._scope = retry, run, scope
        self._images, self._listings = run.lake.snapshot(IMAGES), run.lake.snapshot(LISTINGS)

    @property
    def name(self) -> str:
        """Tells all of these photos in these spaces from any others."""
        return f"{', '.join(space.id for space in self._run.spaces)} of images {self._images}"

    def table(self) -> DataFrame:
        """`images` as it stood when the run began."""
        return self._run.lake.read(IMAGES, self._images)

    def photos(self) -> DataFrame:
        """(image_id, epoch, file, pos) of the scope: the data file, and the row in it."""
        rows, scope = self.table().selectExpr("image_id", "epoch", "_file file", "_pos pos"), self._scope
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
        """The rows of those of the scope that have neither vector nor failure, the block that each is in, and `spaces`.

        These are where it lacks, by id. They are sought once, for all chunks.
        """
        each = [self._lacking(space.id).withColumn("space", F.lit(space.id)) for space in self._run.spaces]
        found = each[0].withColumn("spaces", F.array("space"))
        if len(each) > 1:
            keys = [name for name in each[0].columns if name != "space"]
            rows = functools.reduce(DataFrame.union, each)
            found = rows.groupBy(*keys).agg(F.sort_array(F.collect_set("space")).alias("spaces"))
        size = max(1, self._run.settings.extract.chunk_images // _BLOCKS)
        return found.withColumn("block", F.floor(F.col("pos") / size)).persist()

    def close(self) -> None:
        """Lets go of them."""
        if "lacking" in self.__dict__:
            self.lacking.unpersist()

    def _lacking(self, space: str) -> DataFrame:
        here = self._run.lake.read(FEATURES).where(F.col("space") == space).select("image_id")
        lacking = self.photos().join(here, "image_id", "left_anti")
        if self.retry or self._run.lake.snapshot(FAILURES) is None:
            return lacking
        return lacking.join(self._failed(space), "image_id", "left_anti")

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
        """How many of the scope stand failed in the run's first space."""
        if self._run.lake.snapshot(FAILURES) is None:
            return 0
        failed = self._failed(self._run.space.id)
        return (failed.join(self.photos(), "image_id", "left_semi") if self._scope else failed).count()

    def chunks(self) -> Iterator[Chunk]:
        """What lacks, epoch by epoch, in the order in which it lies in the files."""
        if self._images is None:
            return
        place = ("spaces", "epoch", "file", "block")
        counts = self.lacking.groupBy(*place).count().orderBy(*place).collect()
        for _, rows in itertools.groupby(counts, key=lambda row: (row.spaces, row.epoch)):
            held = list[Row]()
            for row in rows:
                if held and _photos(held) + row["count"] > self._run.settings.extract.chunk_images:
                    yield self._chunk(held)
                    held.clear()
                held.append(row)
            yield self._chunk(held)

    def _chunk(self, blocks: Sequence[Row]) -> Chunk:
        first, last = blocks[0], blocks[-1]
        spaces = sorted((space for space in self._run.spaces if space.id in first.spaces), key=lambda space: space.id)
        ends = (first.file, first.block), (last.file, last.block)
        return Chunk(tuple(spaces), first.epoch, *ends, _photos(blocks))

    def _failed(self, space: str) -> DataFrame:
        rows = self._run.lake.read(FAILURES).where((F.col("stage") == "extract") & (F.col("space") == space))
        return rows.select(F.col("what").alias("image_id"))


def _photos(blocks: Sequence[Row]) -> int:
    return sum(block["count"] for block in blocks)
