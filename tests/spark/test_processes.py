"""Runs as processes of their own: killed at many points, listening on loopback only, two at once."""

import contextlib
import shutil
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tests.runs import Checkpoints, Job, assert_equal, eventually, extracting, state

from likeness.core.settings import load_settings
from likeness.index.builds import Builds
from likeness.spark import jobs
from likeness.spark.run import Run
from likeness.storage.leases import LeaseHeldError
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, RUNS

from .conftest import run, take

SMALL = ("ingest.chunk_images=6", "extract.chunk_images=4", "gates.max_failure_rate=0.5", "index.pack_vectors=1")


def nightly(settings, *assignments: str) -> Job:
    flags = ["--source", settings.source.uri, "--root", settings.root, "--date", str(settings.date)]
    for text in (f"extract.cache={settings.extract.cache}", *assignments):
        flags += ["--set", text]
    return Job([sys.executable, "jobs/nightly.py", *flags])


POINTS = [
    "ingest: committed 6 images",
    "extract: committed 4 of",
    "index: 3 shards written",
]
MORE_POINTS = [
    "ingest: listed",
    "passes its gates",
    "nightly: ",
    "ingest: recorded",
    "ingest: committed 15 listings",
    "extract: committed 12 of",
    "load: 15 vectors",
    "is complete, 3 shards",
    "is in service",
    "report: ",
]
"""What a nightly run prints, where it is killed."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = take(tmp_path_factory.mktemp("source") / "photos", "hat", "shoes", "skirt", count=5)
    (folder / "hat" / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def prepared(source, model_cache, tmp_path_factory):
    """A run to its end: its settings, the root as it was at each point, what it leaves, and where it listened."""
    folder = tmp_path_factory.mktemp("prepared")
    flags = {"root": str(folder / "root"), "source.uri": str(source), "date": "2026-01-02"}
    settings = load_settings(None, flags, (f"extract.cache={model_cache}", *SMALL))
    checkpoints, listening = Checkpoints(settings.root, folder), set[tuple[str, int]]()
    with nightly(settings, *SMALL) as job:
        watcher = threading.Thread(target=watch, args=(job, listening))
        watcher.start()
        checkpoints.take(job, (*POINTS, *MORE_POINTS))
        assert job.code() == 0, job.output
        watcher.join()
    return settings, checkpoints, state(settings), listening


def watch(job: Job, listening: set[tuple[str, int]]) -> None:
    """Collects the addresses on which a job listens, until it ends."""
    while job.process.poll() is None:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(job.process.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    sockets = process.net_connections("inet")
                    listening |= {(s.laddr.ip, s.laddr.port) for s in sockets if s.status == psutil.CONN_LISTEN}
        time.sleep(0.2)


@pytest.mark.kill
@pytest.mark.parametrize("point", [*POINTS, *(pytest.param(p, marks=pytest.mark.slow) for p in MORE_POINTS)])
def test_a_killed_run_is_completed_by_the_next(point, prepared):
    """The root is the copy of one that stood still at this point, which is all that a kill leaves."""
    settings, checkpoints, undisturbed, _ = prepared
    checkpoints.restore(point)
    run(settings)
    assert_equal(state(settings), undisturbed)
    if point != "nightly: ":
        assert statuses(settings) == ["killed", "done"]


def statuses(settings) -> list[str]:
    """How each run ended, the first one first."""
    return [row["status"] for row in TableReader(settings).read(RUNS).sort_by("started").to_pylist()]


@pytest.mark.kill
def test_a_run_that_is_killed_in_extraction_is_completed_by_the_next(configure, source, prepared):
    settings = configure(source, *SMALL)
    with nightly(settings, *SMALL) as job:
        job.until("extract: committed 4 of")
        job.kill()
    run(settings)
    assert_equal(state(settings), prepared[2])
    assert statuses(settings) == ["killed", "done"]


def test_a_run_that_cannot_write_its_row_gets_one_from_the_next(configure, tmp_path):
    """As one whose JVM was killed: Python lives on for a moment, and gives the leases back."""
    settings = configure(take(tmp_path / "photos", "hat", count=1))
    jobs.ingest_job(settings)
    table = Path(settings.root, "tables", "likeness", "runs")
    with pytest.raises(Exception, match="runs"), Run("extract", settings, ("extract",)):
        table.rename(table.with_name("elsewhere"))
    table.with_name("elsewhere").rename(table)
    jobs.extract_job(settings)
    rows = TableReader(settings).read(RUNS).sort_by("started").to_pylist()
    assert [(row["job"], row["status"]) for row in rows] == [
        ("ingest", "done"),
        ("extract", "killed"),
        ("extract", "done"),
    ]


@pytest.mark.slow
@pytest.mark.kill
def test_a_killed_python_worker_in_extraction_costs_nothing(configure, source, prepared):
    """The task is tried again by Spark; the run itself ends well."""
    settings = configure(source, *SMALL)
    with nightly(settings, *SMALL) as job:
        parent = psutil.Process(job.process.pid)
        job.until("ingest: 16 listed")
        eventually(lambda: extracting(parent.children(recursive=True)), job).kill()
        assert job.code() == 0, job.output
    assert "is in service" in job.output
    assert_equal(state(settings), prepared[2])


@pytest.mark.slow
def test_photos_that_crash_or_hang_the_decoder_are_rows(configure, source, tmp_path, tricks):
    """Neither the run nor any other photo is lost."""
    mine = tmp_path / "photos"
    shutil.copytree(source, mine)
    photos = sorted(mine.glob("*/*.jpg"))
    photos = [photo for photo in photos if photo.name != "broken.jpg"]
    for trick, photo in zip(("crash", "hang", "leave"), photos[2:9:3], strict=True):
        photo.write_bytes(photo.read_bytes() + f"#{trick}".encode())
    settings = configure(mine, *SMALL, "limits.decode_timeout_s=2")
    with nightly(settings, *SMALL, "limits.decode_timeout_s=2") as job:
        assert job.code() == 0, job.output
    rows = [row for row in TableReader(settings).read(FAILURES).to_pylist() if row["stage"] == "extract"]
    assert sorted((row["reason"], row["detail"], row["attempts"]) for row in rows) == [
        ("decode_timeout", "over 2.0 s", 1),
        ("decoder_died", "exit code 3", 1),
        ("decoder_died", "signal 11", 1),
    ]
    assert Builds(settings.root).find().images == 15 - 3


@pytest.mark.slow
def test_a_local_run_listens_on_loopback_only(prepared):
    listening = prepared[3]
    assert listening, "a running Spark driver listens somewhere"
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.slow
def test_a_second_run_at_once_is_refused(configure, source):
    settings = configure(source, *SMALL)
    with nightly(settings, *SMALL) as first:
        first.until("ingest: listed")
        with pytest.raises(LeaseHeldError, match="held by run") as refused:
            run(settings)
        assert refused.value.exit_code == 1
        assert first.code() == 0, first.output
    assert Builds(settings.root).find().images == 15
