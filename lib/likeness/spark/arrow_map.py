"""Runs a function of Arrow batches over a DataFrame in Spark's Python workers.   [pyspark]"""

import sys
import zipimport
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from likeness.core.garbage import freeze_objects

Work = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def rows_of(batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """The rows of batches, one after the other."""
    return (row for batch in batches for row in batch.to_pylist())


def arrow_map(table: DataFrame, work: Work, result: str | pa.Schema) -> DataFrame:
    """As `table.mapInArrow(work, result)`, with less time lost between two tasks of a worker.

    Before each task Spark calls `importlib.invalidate_caches`; up to Python 3.12 that reads the directory of
    pyspark.zip again, which takes 0.2 s of a core. After each task it calls `gc.collect`, which visits all modules and
    networks, 0.08 s. So the archives' caches are kept, and the objects of the first task are frozen.
    """

    def worker(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for finder in sys.path_importer_cache.values():
            if isinstance(finder, zipimport.zipimporter):
                finder.invalidate_caches = _do_nothing  # type: ignore[method-assign]
        yield from work(batches)
        freeze_objects()

    schema = result if isinstance(result, str) else from_arrow_schema(result)
    return table.mapInArrow(worker, schema)  # type: ignore[arg-type]


def _do_nothing() -> None:
    """Archives on the path do not change while the process runs."""
