"""Writes the failure ledger: failures are added and counted up, and cleared after a success.   [pyspark]"""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness.images.image import BadImage
from likeness.spark.run import Run
from likeness.storage.run_history import FailureRow
from likeness.storage.tables import FAILURES, FEATURES, Value


def record(run: Run, stage: str, space: str, failed: Mapping[str, BadImage], succeeded: Collection[str] = ()) -> None:
    """Adds failures or counts their attempts up, and clears those that have succeeded. No change, no commit."""
    if not failed and not succeeded:
        return
    tables, before = run.tables, standing(run, stage, space)
    same: dict[str, Value] = {"stage": stage, "space": space, "last": datetime.now(UTC), "run_id": run.run_id}
    attempts = {what: before[what].attempts + 1 if what in before else 1 for what in failed}
    added = [
        same | {"what": what, "reason": bad.reason, "detail": bad.detail, "attempts": attempts[what]}
        for what, bad in failed.items()
    ]
    if added:
        commit = tables.upsert if before.keys() & failed.keys() else tables.append
        commit(FAILURES, tables.rows(FAILURES, added))
    _clear(run, stage, space, before.keys() & set(succeeded))


def clear_extracted(run: Run, space: str) -> None:
    """Clears the failures of stage `extract` whose vectors exist by now, whichever run wrote them."""
    if run.tables.snapshot(FAILURES) is not None:
        failed = rows(run, "extract", space)
        extracted = run.tables.read(FEATURES).where(F.col("space") == space).select(F.col("image_id").alias("what"))
        _clear(run, "extract", space, [row.what for row in failed.join(extracted, "what", "left_semi").collect()])


def _clear(run: Run, stage: str, space: str, succeeded: Collection[str]) -> None:
    if succeeded:
        keys = [{"what": what, "stage": stage, "space": space} for what in succeeded]
        run.tables.delete(FAILURES, run.tables.rows(FAILURES, keys))


def record_listing(run: Run, failed: Mapping[str, BadImage], prefixes: tuple[str, ...]) -> None:
    """Updates the failures of stage `list` of one source; a failure that stays is not counted up each night."""
    before = {what: row.reason for what, row in standing(run, "list", "").items() if what.startswith(prefixes)}
    changed = {what: bad for what, bad in failed.items() if before.get(what) != bad.reason}
    repaired = before.keys() - failed.keys()
    if changed or repaired:
        record(run, "list", "", changed, repaired)


def standing(run: Run, stage: str, space: str) -> dict[str, FailureRow]:
    """The standing failures of a stage and a space, by what failed."""
    if run.tables.snapshot(FAILURES) is None:  # never written
        return {}
    return {row.what: FailureRow(**row.asDict()) for row in rows(run, stage, space).collect()}


def rows(run: Run, stage: str, space: str) -> DataFrame:
    """The rows of `failures` of a stage and a space."""
    return run.tables.read(FAILURES).where((F.col("stage") == stage) & (F.col("space") == space))
