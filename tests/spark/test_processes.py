"""Runs as processes of their own: killed at many points, listening on loopback only, two at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from likeness import stores
from likeness.backbones import resolve
from likeness.manifest import Builds
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.tables import FAILURES, FEATURES, IMAGES, LISTINGS, RUNS, SOURCES
from likeness.warehouse import Warehouse

from .conftest import PROJECT, run, take

KEYS = {
    SOURCES: ("uri", "length", "outcome", "image_id"),
    IMAGES: ("image_id", "bytes", "epoch"),
    LISTINGS: ("product_id", "image_id", "category", "active"),
    FEATURES: ("image_id", "space", "epoch"),
    FAILURES: ("what", "stage", "reason"),
}
SMALL = ("ingest.chunk_images=6", "extract.chunk_images=4", "gates.max_failure_rate=0.5")


class Nightly:
    """A nightly run in a process group of its own; its lines arrive as it says them."""

    def __init__(self, given, *assignments: str) -> None:
        flags = ["--source", given.source.uri, "--root", given.root, "--date", str(given.date)]
        for text in (f"extract.cache={given.extract.cache}", *assignments):
            flags += ["--set", text]
        self.process = subprocess.Popen(
            [sys.executable, "jobs/nightly.py", *flags],
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def __enter__(self) -> "Nightly":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.process.wait(30)
        assert self.process.stderr
        self.process.stderr.close()

    def said(self) -> Iterator[str]:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            yield self.lines[-1]

    def until(self, words: str) -> None:
        for line in self.said():
            if words in line:
                return
        pytest.fail(f"never said {words!r}:\n" + "\n".join(self.lines))

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = take(tmp_path_factory.mktemp("source") / "photos", "hat", "shoes", "skirt", count=5)
    (folder / "hat" / "broken.jpg").write_bytes(b"no photo")
    return folder


@pytest.fixture(scope="module")
def undisturbed(source, model_cache, tmp_path_factory):
    from likeness import settings

    root = tmp_path_factory.mktemp("undisturbed") / "root"
    flags = {"root": str(root), "source.uri": str(source), "date": "2026-01-02"}
    given = settings.load(None, flags, (f"extract.cache={model_cache}", *SMALL))
    run(given)
    return _state(given)


def _state(given):
    """Every table's rows, the keyed store and the answers, in an order of their own."""
    warehouse = Warehouse(given)
    tables = {
        table.name: sorted(tuple(str(row[name]) for name in names) for row in warehouse.read(table, names).to_pylist())
        for table, names in KEYS.items()
    }
    store = stores.keyed(stores.keyed_uri("", given.root))
    stored = dict(store.scan_vectors(resolve(given.extract.space).id))
    products = [(p.product_id, p.category, tuple(p.image_ids)) for p in store.scan_products()]
    store.close()
    builds = Builds(given.root)
    manifest = builds.find()
    assert builds.problems(manifest) == []
    root = Root(manifest, [Leaf(builds, manifest)])
    answers = {
        key: [(r["image_id"], r["product_id"], round(r["score"], 4)) for r in found["results"]]
        for key, vector in stored.items()
        for found in [root.search(vector, manifest.space, 5, "all")]
    }
    return tables, {key: np.round(vector, 4).tolist() for key, vector in stored.items()}, products, answers


def _check_completed(given, undisturbed) -> None:
    run(given)
    tables, vectors, products, answers = _state(given)
    for name, rows in undisturbed[0].items():
        assert tables[name] == rows, name
    assert (vectors, products, answers) == undisturbed[1:]


POINTS = [
    "ingest: listed",
    "ingest: committed 6 images",
    "ingest: recorded",
    "extract: committed 4 of",
    "index: 3 shards written",
    "passes its gates",
]
MORE_POINTS = [
    "nightly: ",
    "ingest: committed 15 listings",
    "ingest: 16 listed",
    "extract: committed 12 of",
    "load: 15 vectors",
    "is whole, 3 shards",
    "is in service",
    "report: ",
]


@pytest.mark.kill
@pytest.mark.parametrize("point", [*POINTS, *(pytest.param(p, marks=pytest.mark.slow) for p in MORE_POINTS)])
def test_a_killed_run_is_completed_by_the_next(point, configure, source, undisturbed):
    given = configure(source, *SMALL)
    with Nightly(given, *SMALL) as nightly:
        nightly.until(point)
        nightly.kill()
    _check_completed(given, undisturbed)
    if point != "nightly: ":
        statuses = [row["status"] for row in Warehouse(given).read(RUNS).sort_by("started").to_pylist()]
        assert statuses == ["killed", "done"]


@pytest.mark.kill
def test_a_killed_python_worker_in_extraction_costs_nothing(configure, source, undisturbed):
    """The task is tried again by Spark; the run itself ends well."""
    given = configure(source, *SMALL)
    with Nightly(given, *SMALL) as nightly:
        nightly.until("ingest: 16 listed")
        reader = threading.Thread(target=lambda: list(nightly.said()))
        reader.start()
        killed = _kill_a_worker(nightly)
        assert nightly.process.wait(240) == 0, "\n".join(nightly.lines)
        reader.join()
    assert killed
    assert any("is in service" in line for line in nightly.lines)
    assert _state(given) == undisturbed


def _kill_a_worker(nightly: Nightly) -> bool:
    """Kills the first worker process that has loaded OpenVINO, which is to say: is extracting."""
    until = time.monotonic() + 120
    while time.monotonic() < until and nightly.process.poll() is None:
        for child in psutil.Process(nightly.process.pid).children(recursive=True):
            try:
                if "pyspark.daemon" in " ".join(child.cmdline()) and _has_openvino(child.pid):
                    child.kill()
                    return True
            except psutil.Error:
                continue
        time.sleep(0.02)
    return False


def _has_openvino(pid: int) -> bool:
    try:
        return "libopenvino" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_a_local_run_listens_on_loopback_only(configure, source):
    given = configure(source, *SMALL)
    seen: set[tuple[str, int]] = set()
    with Nightly(given, *SMALL) as nightly:
        reader = threading.Thread(target=lambda: list(nightly.said()))
        reader.start()
        while nightly.process.poll() is None:
            parent = psutil.Process(nightly.process.pid)
            for process in [parent, *parent.children(recursive=True)]:
                try:
                    for connection in process.net_connections("inet"):
                        if connection.status == psutil.CONN_LISTEN:
                            seen.add((connection.laddr.ip, connection.laddr.port))
                except psutil.Error:
                    continue
            time.sleep(0.2)
        reader.join()
        assert nightly.process.returncode == 0, "\n".join(nightly.lines)
    assert seen, "a running Spark driver listens somewhere"
    assert {ip for ip, _ in seen} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.slow
def test_a_second_run_at_once_is_refused(configure, source):
    given = configure(source, *SMALL)
    with Nightly(given, *SMALL) as first:
        first.until("ingest: listed")
        with Nightly(given, *SMALL) as second:
            list(second.said())
            assert second.process.wait(60) == 1
        assert any("held by run" in line for line in second.lines), second.lines
        list(first.said())
        assert first.process.wait(240) == 0, "\n".join(first.lines)
    assert Builds(given.root).find().images == 15
