"""Extract: photos that a space lacks in, rows of `features` out.   [pyspark]

Workers read photos from the table's Parquet files and write others beside the table, both with pyarrow; the driver
commits a chunk's files at once, while the workers are at the next chunk. No photo and no vector passes through the
JVM, and a killed chunk leaves files that nobody refers to.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pyspark.sql import Row

from likeness.core import uris
from likeness.core.formatting import duration
from likeness.core.settings import Settings
from likeness.images.image import BadImage
from likeness.models.backbones import concatenated
from likeness.models.runtimes import Machine, local_machine, prepare_runtime
from likeness.ops.backfill_coverage import Scope
from likeness.spark import failures
from likeness.spark.arrow_map import arrow_map
from likeness.spark.progress import watched
from likeness.spark.run import Run
from likeness.spark.stages.extract_task import RESULT, SPENT, Task, work
from likeness.spark.stages.pending import Chunk, PendingImages
from likeness.spark.tables import DataFile
from likeness.storage.run_facts import ExtractFacts
from likeness.storage.tables import FAILURES, FEATURES

_ALL = Scope()


def extract(run: Run, retry: bool = False, scope: Scope = _ALL) -> ExtractFacts:
    """Extracts every photo that the run's spaces lack.

    Args:
        run: the run; its facts get pending = extracted + failed.
        retry: tries again what failed before.
        scope: leaves all other photos alone.
    """
    with run.stage(ExtractFacts) as facts:
        wanted = PendingImages(run, scope, retry)
        facts.pending = facts.extracted = facts.failed = 0
        chunks = [] if _complete(run, wanted) else list(wanted.chunks())
        told, begun = list[Row](), time.monotonic()
        facts.pending = sum(chunk.photos for chunk in chunks)
        for spaces in {chunk.spaces for chunk in chunks}:
            prepare_runtime(concatenated(spaces), run.settings.extract.runtime, _machine(run.settings))
        with run.reporter.bar("extract", facts.pending, "photos") as bar, ThreadPoolExecutor(1, "commit") as thread:
            done, commits = 0, list[Future[None]]()
            for chunk in chunks:
                with watched(run, bar, done, chunk.photos):
                    results = _extract_chunk(run, chunk)
                done += chunk.photos
                told += [row for row in results if row.worker]
                if commits:
                    commits.pop().result()
                commits.append(thread.submit(_commit, run, chunk, results, facts))  # the cores go on meanwhile
            for commit in commits:
                commit.result()
        if retry:
            for space in run.spaces:
                failures.heal(run, space.id)
        if told:
            _count_effort(facts, told, time.monotonic() - begun)
            run.say(f"extract: {_shares(facts.worker_seconds)}")
        run.must_add_up(facts)
        facts.standing_failures = wanted.standing()
        if scope:
            facts.scope = str(scope)
        else:
            facts.complete = wanted.name
        if facts.standing_failures:
            run.gate_failures("extract", facts.standing_failures, wanted.photos().count())
    return facts


def _count_effort(facts: ExtractFacts, tasks: Sequence[Row], seconds: float) -> None:
    """Adds up what the tasks report: seconds by what they went into, worker processes, networks that these loaded.

    With GPUs, also the share of the stage's seconds in which they were at work.
    """
    facts.worker_seconds = {name: round(sum(row[name] for row in tasks), 1) for name in SPENT}
    facts.workers = len({row.worker for row in tasks})
    facts.networks = sum(row.networks for row in tasks)
    busy, gpus = sum(row.busy for row in tasks), len({row.gpu for row in tasks})
    if busy:
        facts.gpu_busy = round(min(1.0, busy / (seconds * gpus)), 3)


def _shares(seconds: Mapping[str, float]) -> str:
    """In words: a network that waits wants more decoders, or a faster disk."""
    whole = sum(seconds.values())
    each = ", ".join(f"{seconds[name] / (whole or 1):.0%} {doing}" for name, doing in SPENT.items())
    return f"workers spent {duration(whole)}: {each}"


def _complete(run: Run, wanted: PendingImages) -> bool:
    """Whether an earlier run extracted all there was, and no table changed since."""
    before = run.last_facts(ExtractFacts, FEATURES, FAILURES)
    return not wanted.retry and before is not None and before.complete == wanted.name


def _extract_chunk(run: Run, chunk: Chunk) -> list[Row]:
    """Extracts a chunk, and records what failed; what its tasks say of their files, failures and work."""
    spark, ingest_date, settings = run.tables.spark, chunk.ingest_date, run.settings
    pieces = chunk.pieces(spark.sparkContext.defaultParallelism)
    folders = {
        one.id: uris.join(run.tables.location(FEATURES), "data", one.id, str(ingest_date)) for one in chunk.spaces
    }
    task = Task(chunk.spaces, settings.extract, settings.limits, _machine(settings), ingest_date, folders)
    tasks = pieces["task"][-1].as_py() + 1
    placed = spark.createDataFrame(pieces).repartitionById(tasks, "task")
    results = arrow_map(placed, work(task), RESULT).collect()
    failed = {row.what: BadImage(row.reason, row.detail) for row in results if row.what}
    for space in chunk.spaces:
        failures.record(run, "extract", space.id, failed)
    return results


def _commit(run: Run, chunk: Chunk, results: Sequence[Row], facts: ExtractFacts) -> None:
    """Commits the vectors that the tasks of a chunk wrote, and counts them. No Spark job: it would wait for a core."""
    added = []
    for space in chunk.spaces:  # after each of them all is well: what then lacks in one, lacks in that alone
        files = [DataFile(row.file, row.rows) for row in results if row.space == space.id]
        run.guard()
        added.append(run.tables.append_files(FEATURES, files, (space.id, str(chunk.ingest_date))))
    facts.extracted += min(added)
    facts.failed += sum(bool(row.what) for row in results)
    run.say(f"extract: committed {facts.extracted + facts.failed} of {facts.pending}")


def _machine(settings: Settings) -> Machine:
    """A machine of the cluster: one thread a network, for each core has a worker of its own."""
    return local_machine(settings, 1)
