"""Which photos an extraction takes up: a scope in, the photos that a space lacks, in chunks, out.   [pyspark]

The tables of photos and listings are read as they stood when the run began: what another run takes in meanwhile
belongs to the next one, or the counts would not add up.
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
from likeness.storage.table_reader import row_groups
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS

Place = tuple[str, np.ndarray]
"""A data file, and some of its rows, int64 (n,), ascending."""
PIECES = pa.schema([("task", pa.int32()), ("uri", pa.string()), ("group", pa.int32()), ("rows", pa.list_(pa.int32()))])
"""For each task, rows of a row group of a data file."""
_FEWEST = 16


@dataclass(frozen=True)
class Chunk:
    """Pending photos of one ingest date that lie close together, in few files. All lack the same spaces."""

    spaces: tuple[Space, ...]
    ingest_date: datetime.date
    places: Sequence[Place]

    @property
    def photos(self) -> int:
        """How many these are."""
        return sum(len(rows) for _, rows in self.places)

    def pieces(self, cores: int) -> pa.Table:
        """The photos as so many cores are to take them, `PIECES`."""
        sizes = portions(self.photos, cores)
        tasks, begin, found = np.repeat(np.arange(len(sizes)), sizes), 0, list[tuple[int, str, int, np.ndarray]]()
        for uri, rows in self.places:
            ends = np.cumsum(row_groups(uri))
            groups = np.searchsorted(ends, rows, "right")
            mine = tasks[begin : begin + len(rows)]
            begin += len(rows)
            cuts = np.flatnonzero(np.diff(mine) | np.diff(groups)) + 1
            for part in np.split(np.arange(len(rows)), cuts):
                group = groups[part[0]]
                found.append((mine[part[0]], uri, group, rows[part] - (ends[group - 1] if group else 0)))
        return pa.table([pa.array(column) for column in zip(*found, strict=True)], PIECES.names).cast(PIECES)


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


class PendingImages:
    """The photos of a scope that the run's spaces lack; what failed before is left out unless it is a retry."""

    def __init__(self, run: Run, scope: Scope, retry: bool = False) -> None:
        self.retry, self._run, self._scope = retry, run, scope
        self._images, self._listings = run.tables.snapshot(IMAGES), run.tables.snapshot(LISTINGS)

    @property
    def name(self) -> str:
        """Tells all of these photos in these spaces from any others."""
        return f"{', '.join(space.id for space in self._run.spaces)} of images {self._images}"

    def table(self) -> DataFrame:
        """`images` as it stood when the run began."""
        return self._run.tables.read(IMAGES, self._images)

    def photos(self) -> DataFrame:
        """(image_id, ingest_date, file, pos) of the scope: the data file, and the row in it."""
        rows, scope = self.table().selectExpr("image_id", "ingest_date", "_file file", "_pos pos"), self._scope
        if scope.first:
            rows = rows.where(F.col("ingest_date") >= F.lit(scope.first))
        if scope.last:
            rows = rows.where(F.col("ingest_date") <= F.lit(scope.last))
        if scope.category is not None:
            listings = self._run.tables.read(LISTINGS, self._listings)
            shown = listings.where(F.col("active") & (F.col("category") == F.lit(scope.category)))
            rows = rows.join(shown.select("image_id"), "image_id", "left_semi")
        return rows

    def _lacking(self, space: str) -> DataFrame:
        here = self._run.tables.read(FEATURES).where(F.col("space") == space).select("image_id")
        lacking = self.photos().join(here, "image_id", "left_anti")
        if self.retry or self._run.tables.snapshot(FAILURES) is None:
            return lacking
        return lacking.join(self._failed(space), "image_id", "left_anti")

    def standing(self) -> int:
        """How many of the scope stand failed in the run's first space."""
        if self._run.tables.snapshot(FAILURES) is None:
            return 0
        failed = self._failed(self._run.space.id)
        return (failed.join(self.photos(), "image_id", "left_semi") if self._scope else failed).count()

    def chunks(self) -> Iterator[Chunk]:
        """What lacks, ingest date by ingest date, in the order in which it lies in the files."""
        if self._images is None:
            return
        most = self._run.settings.extract.chunk_images
        for (spaces, ingest_date), places in sorted(self._places().items(), key=lambda found: found[0][1]):
            held, room = list[Place](), most
            for uri, rows in places:
                for part in np.split(rows, range(room, len(rows), most)):
                    held.append((uri, part))
                    room -= len(part)
                    if not room:
                        yield Chunk(spaces, ingest_date, tuple(held))
                        held, room = [], most
            if held:
                yield Chunk(spaces, ingest_date, tuple(held))

    def _places(self) -> dict[tuple[tuple[Space, ...], datetime.date], list[Place]]:
        """Where the photos lie that lack in the same spaces and are of an ingest date; eight bytes for each."""
        lacking = defaultdict[tuple[datetime.date, str], dict[Space, np.ndarray]](dict)
        for space in sorted(self._run.spaces, key=lambda space: space.id):
            found = (
                self._lacking(space.id)
                .groupBy("ingest_date", "file")
                .agg(F.collect_list("pos").alias("rows"))
                .toArrow()
            )
            for ingest_date, file, rows in zip(*(found[name] for name in ("ingest_date", "file", "rows")), strict=True):
                lacking[ingest_date.as_py(), file.as_py()][space] = np.sort(rows.values.to_numpy())
        places = defaultdict[tuple[tuple[Space, ...], datetime.date], list[Place]](list)
        for (ingest_date, file), each in sorted(lacking.items(), key=lambda found: found[0]):
            rows = functools.reduce(np.union1d, each.values())
            lacks = np.stack([np.isin(rows, mine) for mine in each.values()], axis=1)
            for which in np.unique(lacks, axis=0):
                spaces = tuple(itertools.compress(each, which))
                places[spaces, ingest_date].append((file, rows[(lacks == which).all(axis=1)]))
        return places

    def _failed(self, space: str) -> DataFrame:
        return failures.rows(self._run, "extract", space).select(F.col("what").alias("image_id"))
