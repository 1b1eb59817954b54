"""The way to Spark's Python workers: a table and a function of Arrow batches in, a table out.   [pyspark]"""

import functools
import gc
import sys
import zipimport
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

Work = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def arrow_map(table: DataFrame, work: Work, result: str | pa.Schema) -> DataFrame:
    """`table.mapInArrow(work, result)`, in workers that lose little time between two tasks.

    Spark has pyspark.zip on the path and calls `importlib.invalidate_caches` before each task; up to Python 3.12 that
    reads the directory of the archive anew, 0.2 s of a core. After each task it calls `gc.collect`, which walks through
    all modules and networks, 0.08 s; so what is left of the first task is taken for permanent.
    """

    def kept(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for finder in sys.path_importer_cache.values():
            if isinstance(finder, zipimport.zipimporter):
                finder.invalidate_caches = _nothing  # type: ignore[method-assign]
        yield from work(batches)
        _settle()

    made = result if isinstance(result, str) else from_arrow_schema(result)
    return table.mapInArrow(kept, made)  # type: ignore[arg-type]


@functools.cache
def _settle() -> None:
    """Once a process."""
    gc.collect()
    gc.freeze()


def _nothing() -> None:
    """An archive on the path stays as it is as long as the process lives."""
