"""Commits of two runs at once: none is lost, none fails, and each counts its own rows."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from tests.runs import PROJECT

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError, ServiceError
from likeness.core.settings import Settings, load_settings
from likeness.images.image import BadImage
from likeness.spark import failures, jobs, tables
from likeness.spark.commits import Commits
from likeness.spark.run import Run
from likeness.spark.tables import SparkTables
from likeness.storage.leases import Lease
from likeness.storage.table_reader import TableReader, location
from likeness.storage.tables import FAILURES, FEATURES, RUNS

ROUNDS = 4
OTHER = "import sys; from tests.spark.test_commits import commit_often; commit_often(*sys.argv[1:])"
HELD = """
import sys
from likeness.spark.commits import Commits
Commits(sys.argv[1]).run(sys.argv[2], lambda: print("at it", flush=True) or sys.stdin.read())
"""


def commit_often(root: str, who: str) -> None:
    """What runs commit, as often as possible: vectors, failures that come and go, and runs."""
    settings = load_settings(None, {"root": root})
    space = f"{who}.layer@00000000"
    with Run(who, settings, ()) as run:
        for number in range(ROUNDS):
            rows = number % 3 + 1
            vectors = [
                {
                    "image_id": f"{who}-{number}-{row}",
                    "space": space,
                    "ingest_date": settings.date,
                    "vector": np.ones(4, np.float32),
                    "norm": 2.0,
                }
                for row in range(rows)
            ]
            assert run.tables.append_files(FEATURES, [_written(run, vectors)], (space, str(settings.date))) == rows
            failed = {f"{who}-{n}": BadImage("undecodable", "") for n in range(number + 1)}
            failures.record(run, "extract", space, failed, [f"{who}-gone-{number - 1}"])
            failures.record(run, "extract", space, {f"{who}-gone-{number}": BadImage("undecodable", "")})
            row = run.row("done").model_copy(update={"run_id": f"{who}-{number}"}).columns()
            assert run.tables.append(RUNS, run.tables.rows(RUNS, [row])) == 1
            print(f"{who}: round {number}", flush=True)


def _written(run: Run, rows: list[dict[str, object]]) -> str:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow())
    pq.write_table(table, buffer := io.BytesIO())
    uri = uris.join(run.tables.location(FEATURES), "data", f"{rows[0]['image_id']}.parquet")
    storage.files(uri).write(uri, buffer.getvalue())
    return uri


def expected(*names: str) -> tuple[set[str], dict[str, int], set[str]]:
    """image_ids, attempts by what, and run_ids that `commit_often` leaves behind."""
    vectors = {f"{who}-{n}-{row}" for who in names for n in range(ROUNDS) for row in range(n % 3 + 1)}
    attempts = {f"{who}-{n}": ROUNDS - n for who in names for n in range(ROUNDS)}
    attempts |= {f"{who}-gone-{ROUNDS - 1}": 1 for who in names}
    return vectors, attempts, {f"{who}-{n}" for who in names for n in range(ROUNDS)}


def committed_rows(settings: Settings) -> tuple[set[str], dict[str, int], set[str]]:
    """The same, as the tables have it; no row is there twice."""
    warehouse = TableReader(settings)
    vectors = warehouse.read(FEATURES, ("image_id",))["image_id"].to_pylist()
    ledger = warehouse.read(FAILURES, ("what", "attempts")).to_pylist()
    runs = [name for name in warehouse.read(RUNS, ("run_id",))["run_id"].to_pylist() if name.count("-") == 1]
    for names in (vectors, [row["what"] for row in ledger], runs):
        assert len(names) == len(set(names))
    return set(vectors), {row["what"]: row["attempts"] for row in ledger}, set(runs)


def test_a_commit_waits_for_that_of_another_process(configure, tmp_path, spark):
    """A local disk lets both rename to one version, and loses the first: the turn of the other has to be over."""
    settings = configure(tmp_path)
    with Run("here", settings, ()) as run:
        rows = run.tables.rows(RUNS, [run.row("done").model_copy(update={"run_id": "here-0"}).columns()])
        command = [sys.executable, "-c", HELD, location(settings), RUNS.name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin
            assert other.stdout
            assert other.stdout.readline() == "at it\n"
            committed: list[int] = []
            mine = threading.Thread(target=lambda: committed.append(run.tables.append(RUNS, rows)))
            mine.start()
            mine.join(3)
            assert (mine.is_alive(), committed, "here-0" in committed_rows(settings)[2]) == (True, [], False)
            other.stdin.close()
            mine.join(60)
        assert committed == [1]
    assert "here-0" in committed_rows(settings)[2]


@pytest.mark.slow
def test_two_processes_lose_no_commit(configure, tmp_path):
    settings = configure(tmp_path)
    command = [sys.executable, "-c", OTHER, settings.root, "there"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as other:
        assert other.stdout
        said = next(line for line in other.stdout if "round 0" in line or "Error" in line)
        assert "round 0" in said
        commit_often(settings.root, "here")
        rest = other.stdout.read()
    assert other.returncode == 0, rest
    assert committed_rows(settings) == expected("here", "there")


@pytest.mark.slow
def test_where_a_rename_refuses_commits_are_tried_again(configure, tmp_path, spark, monkeypatch):
    """As on HDFS: no lock, and a commit that comes second fails. In one JVM Iceberg sees to that."""
    settings = configure(tmp_path)
    commits, attempts = [], []

    class Counted(Commits):
        def run(self, table, commit):
            commits.append(table)
            return super().run(table, lambda: (attempts.append(table), commit())[1])

    monkeypatch.setattr(tables, "Commits", lambda location: Counted("hdfs://nowhere"))
    errors: list[BaseException] = []

    def work(who: str) -> None:
        try:
            commit_often(settings.root, who)
        except BaseException as error:
            errors.append(error)

    SparkTables(spark, settings)
    threads = [threading.Thread(target=work, args=(who,)) for who in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert committed_rows(settings) == expected("one", "two")
    assert len(attempts) > len(commits), "no commit came second, which proves nothing"


def test_a_commit_that_was_lost_is_noticed(configure, tmp_path, spark):
    settings = configure(tmp_path)
    opened = SparkTables(spark, settings)
    with pytest.raises(DataError, match=r"table runs has lost a commit"):
        opened._add(RUNS, lambda mark: None)


def test_compaction_wants_the_root_alone(configure, tmp_path):
    settings = configure(tmp_path)
    who = {"run_id": "the-other", "job": "backfill", "started": "2026-01-01T00:00:00+00:00"}
    with Lease(settings.root, "extract-alexnet.fc6@00000000", who):
        with pytest.raises(ServiceError, match=r"compact and run the-other .* at once: compact needs exclusive access"):
            jobs.compact_job(settings)
        with Run("here", settings, ("extract",)):
            pass
    with Lease(settings.root, "upkeep", who | {"job": "compact"}):
        with pytest.raises(ServiceError, match=r"extract and run the-other .* at once: compact needs exclusive access"):
            jobs.extract_job(settings)
