"""Extract: photos without a vector in a space in, rows of `features` out.   [pyspark]

Workers read photos from the Parquet files of `images` and write Parquet files of vectors, both with pyarrow. The driver
commits the files of a chunk at once, while the workers extract the next chunk. No photo and no vector passes through
the JVM. A chunk that is killed leaves files that no snapshot refers to.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pyspark.sql import Row

from likeness.core import uris
from likeness.core.formatting import duration
from likeness.images.image import BadImage
from likeness.models.backbones import concatenated
from likeness.models.runtimes import Machine, local_machine, prepare_runtime
from likeness.ops.backfill_coverage import Scope
from likeness.spark import failures
from likeness.spark.arrow_map import arrow_map
from likeness.spark.progress import track_tasks
from likeness.spark.run import Run
from likeness.spark.stages.extract_task import ACTIVITIES, RESULT, Task, extract_pieces
from likeness.spark.stages.pending import Chunk, PendingImages
from likeness.storage.run_facts import ExtractFacts
from likeness.storage.tables import FAILURES, FEATURES

_ALL = Scope()


def extract(run: Run, retry: bool = False, scope: Scope = _ALL) -> ExtractFacts:
    """Extracts every photo without a vector in one of the run's spaces.

    Args:
        run: the run; its facts get pending = extracted + failed.
        retry: extracts the photos again that failed before.
        scope: the photos to extract, all by default.
    """
    with run.stage(ExtractFacts) as facts:
        pending = PendingImages(run, scope, retry)
        facts.pending = facts.extracted = facts.failed = 0
        before = None if retry else run.last_facts(ExtractFacts, FEATURES, FAILURES)
        complete = before is not None and before.complete == pending.name  # an earlier run has extracted all of these
        chunks = [] if complete else list(pending.chunks())
        tasks, begun = list[Row](), time.monotonic()
        machine = local_machine(run.settings, 1)  # one thread a network, since each core has its own worker
        facts.pending = sum(chunk.photos for chunk in chunks)
        for spaces in {chunk.spaces for chunk in chunks}:
            prepare_runtime(concatenated(spaces), run.settings.extract.runtime, machine)
        with run.reporter.bar("extract", facts.pending, "photos") as bar, ThreadPoolExecutor(1, "commit") as thread:
            done, commits = 0, list[Future[None]]()
            for chunk in chunks:
                with track_tasks(run, bar, done, chunk.photos):
                    results = _extract_chunk(run, chunk, machine)
                done += chunk.photos
                tasks += [row for row in results if row.worker]
                if commits:
                    commits.pop().result()
                commits.append(thread.submit(_commit, run, chunk, results, facts))  # the workers extract meanwhile
            for commit in commits:
                commit.result()
        for space in run.spaces if retry else ():
            failures.clear_extracted(run, space.id)
        if tasks:
            _count_effort(facts, tasks, time.monotonic() - begun)
            run.say(f"extract: {_shares(facts.worker_seconds)}")
        run.must_add_up(facts)
        facts.standing_failures = pending.standing()
        if scope:
            facts.scope = str(scope)
        else:
            facts.complete = pending.name
        if facts.standing_failures:
            run.gate_failures("extract", facts.standing_failures, pending.photos().count())
    return facts


def _count_effort(facts: ExtractFacts, tasks: Sequence[Row], seconds: float) -> None:
    """Adds up the reports of the tasks: seconds by activity, worker processes and the networks that they loaded.

    With GPUs, also the share of the stage's seconds in which they computed.
    """
    facts.worker_seconds = {name: round(sum(row[name] for row in tasks), 1) for name in ACTIVITIES}
    facts.workers = len({row.worker for row in tasks})
    facts.networks = sum(row.networks for row in tasks)
    busy, gpus = sum(row.busy for row in tasks), len({row.gpu for row in tasks})
    if busy:
        facts.gpu_busy = round(min(1.0, busy / (seconds * gpus)), 3)


def _shares(seconds: Mapping[str, float]) -> str:
    """Shares of the workers' time, in words. A network that waits needs more decoders, or a faster disk."""
    total = sum(seconds.values())
    shares = ", ".join(f"{seconds[name] / (total or 1):.0%} {activity}" for name, activity in ACTIVITIES.items())
    return f"workers spent {duration(total)}: {shares}"


def _extract_chunk(run: Run, chunk: Chunk, machine: Machine) -> list[Row]:
    """Extracts a chunk and records its failures; returns the rows `RESULT` of its tasks."""
    spark, ingest_date, settings = run.tables.spark, chunk.ingest_date, run.settings
    pieces = chunk.pieces(spark.sparkContext.defaultParallelism)
    data = uris.join(run.tables.location(FEATURES), "data")
    folders = {space.id: uris.join(data, space.id, str(ingest_date)) for space in chunk.spaces}
    task = Task(chunk.spaces, settings.extract, settings.limits, machine, ingest_date, folders)
    tasks = pieces["task"][-1].as_py() + 1
    placed = spark.createDataFrame(pieces).repartitionById(tasks, "task")
    results = arrow_map(placed, functools.partial(extract_pieces, task), RESULT).collect()
    failed = {row.what: BadImage(row.reason, row.detail) for row in results if row.what}
    for space in chunk.spaces:
        failures.record(run, "extract", space.id, failed)
    return results


def _commit(run: Run, chunk: Chunk, results: Sequence[Row], facts: ExtractFacts) -> None:
    """Commits the files that the tasks of a chunk wrote. Runs no Spark job, which would wait for a core."""
    added = []
    for space in chunk.spaces:  # a kill between two spaces leaves photos pending in the second only
        files = [row.file for row in results if row.space == space.id]
        added.append(run.tables.append_files(FEATURES, files, (space.id, str(chunk.ingest_date))))
    facts.extracted += min(added)
    facts.failed += sum(bool(row.what) for row in results)
    run.say(f"extract: committed {facts.extracted + facts.failed} of {facts.pending} photos")
