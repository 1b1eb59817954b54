"""Jobs as processes of their own, and what they leave behind, for tests that kill something."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from tests.jvm import iceberg

from likeness import storage
from likeness.core import uris
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.models.backbones import resolve
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.spark.run import Run
from likeness.spark.stages.extract_task import record_batch
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS, SOURCES

PROJECT = Path(__file__).parents[1]
_SEEDED = 5000
KEYS = {
    SOURCES: ("uri", "length", "outcome", "image_id"),
    IMAGES: ("image_id", "bytes", "ingest_date"),
    LISTINGS: ("product_id", "image_id", "category", "active"),
    FEATURES: ("image_id", "space", "ingest_date"),
    FAILURES: ("what", "stage", "reason"),
}


def submitted(job: str, flags: Sequence[str], options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command of `./spark-submit.sh JOB flags -- options`, and its environment, in this Python."""
    environment = os.environ | {
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "SPARK_CONF_DIR": os.environ.get("SPARK_CONF_DIR", str(PROJECT / "deploy" / "conf")),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "LIKENESS_JARS": iceberg(),
    }
    program = str(PROJECT / "jobs" / f"{job}.py")
    return [sys.executable, "-m", "likeness.spark.submit.submit", program, *flags, "--", *options], environment


class Job:
    """A job in a process group of its own; its lines arrive as it says them."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # spark-submit puts both together as well
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.process.wait(30)
        assert self.process.stdout
        self.process.stdout.close()

    def new_lines(self) -> Iterator[str]:
        """Yields each line that the job prints from now on."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            yield self.lines[-1]

    def until(self, words: str) -> None:
        """Waits for a line with these words."""
        for line in self.new_lines():
            if words in line:
                return
        pytest.fail(f"never printed {words!r}:\n{self.output}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops all threads of all its processes: files stay as they would if the job were killed here."""
        processes: dict[int, psutil.Process] = {}
        while started := [process for process in self._processes() if process.pid not in processes]:
            for process in started:
                process.suspend()
            processes |= {process.pid: process for process in started}
            while not all(_stands_still(process) for process in started):
                time.sleep(0.001)
        yield
        for process in processes.values():
            with contextlib.suppress(psutil.Error):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def kill(self) -> None:
        """Kills all of it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def code(self, limit_s: float = 300) -> int:
        """Waits for its end; the exit code."""
        reader = threading.Thread(target=lambda: list(self.new_lines()))
        reader.start()
        try:
            return self.process.wait(limit_s)
        finally:
            if self.process.poll() is None:
                self.kill()
            reader.join()

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        return "\n".join(self.lines)


def _stands_still(process: psutil.Process) -> bool:
    """Whether each thread of a process is stopped, or the process has ended."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    except OSError:
        return not process.is_running()
    return all(stat.rpartition(")")[2].split()[0] in "TtZX" for stat in stats)


class Checkpoints:
    """Copies of a root, each as a run left it that was killed at a point; `restore` puts one in the root's place.

    A root names its files by absolute paths, so that a copy is of use at the same place only.
    """

    def __init__(self, root: str, folder: Path) -> None:
        self._root, self._folder = Path(root), folder
        self._points: list[str] = []

    def take(self, job: Job, points: Iterable[str]) -> None:
        """Copies the root whenever the job prints a line with one of these words, until it has printed all."""
        pending = set(points)
        for line in job.new_lines():
            for point in [point for point in pending if point in line]:
                with job.paused():
                    self.save(point)
                pending.remove(point)
            if not pending:
                return
        pytest.fail(f"never printed {sorted(pending)}:\n{job.output}")

    def save(self, point: str) -> None:
        """Copies the root as it is."""
        self._points.append(point)
        if self._root.exists():
            shutil.copytree(self._root, self._copy(point), symlinks=True)

    def restore(self, point: str) -> None:
        """Makes the root what it was at a point."""
        shutil.rmtree(self._root, ignore_errors=True)
        if self._copy(point).exists():
            shutil.copytree(self._copy(point), self._root, symlinks=True)

    def _copy(self, point: str) -> Path:
        return self._folder / f"checkpoint-{self._points.index(point)}"


def extracting(processes: Iterable[psutil.Process]) -> psutil.Process | None:
    """The first Python worker that has loaded the default runtime's library, which is to say: is extracting."""
    for process in processes:
        try:
            worker = "pyspark.daemon" in " ".join(process.cmdline())
            if worker and "libopenvino" in Path(f"/proc/{process.pid}/maps").read_text():
                return process
        except (psutil.Error, OSError):
            continue
    return None


def eventually(check: Callable[[], Any], job: Job, limit_s: float = 300) -> Any:
    """Calls `check` until it returns something true, while a job runs; returns that."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until and job.process.poll() is None:
        if result := check():
            return result
        time.sleep(0.1)  # a look at all processes takes a fifth of that
    job.kill()
    job.code()
    pytest.fail(f"the check was not true within {limit_s} s, or before the job ended:\n{job.output}")


def seed_features(settings: Settings, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Appends vectors, float32 (n, dim), to a root's features; the same by image_id."""
    by_key = keyed(vectors)
    with Run("seed", settings, ()) as run:
        blocks = (vectors[start : start + _SEEDED] for start in range(0, len(vectors), _SEEDED))
        append_features(run, list(by_key), blocks)
    return by_key


def keyed(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Vectors, float32 (n, dim), by image ids that are spread evenly."""
    count = len(vectors)
    return {f"{number * (16**8 // count):08x}".ljust(64, "0"): vector for number, vector in enumerate(vectors)}


def append_features(run: Run, keys: Sequence[str], blocks: Iterable[np.ndarray]) -> None:
    """Appends vectors to the features of a run's space, in one commit: a data file a block, float32 (n, dim)."""
    files, settings = [], run.settings
    for part in blocks:
        names, keys = keys[: len(part)], keys[len(part) :]
        rows = pa.Table.from_batches([record_batch(run.space.id, settings.date, names, part)])
        pq.write_table(rows, buffer := io.BytesIO(), compression="zstd")
        uri = uris.join(run.tables.location(FEATURES), "data", f"{uuid.uuid4()}.parquet")
        storage.files(uri).write(uri, buffer.getvalue())
        files.append(uri)
    run.tables.append_files(FEATURES, files, (run.space.id, str(settings.date)))


def state(settings: Settings) -> tuple[Any, ...]:
    """Every table's rows, the keyed store and the answers, in an order of their own."""
    warehouse = TableReader(settings)
    here = uris.canonical(settings.source.uri)
    tables = {
        table.name: sorted(
            tuple(str(row[name]).removeprefix(here) for name in names)
            for row in warehouse.read(table, names).to_pylist()
        )
        for table, names in KEYS.items()
    }
    store = storage.keyed(storage.keyed_uri(settings.keyed.uri, settings.root))
    stored = {item.key: vector for item, vector in store.scan_vectors(resolve(settings.extract.space).id)}
    products = sorted((p.product_id, p.category, tuple(p.image_ids)) for p in store.scan_products())
    store.close()
    builds = Builds(settings.root, settings.extract.cache)
    manifest = builds.find()
    assert builds.problems(manifest) == []
    root = Root(manifest, Leaf(builds, manifest))
    answers = {
        key: [(r.image_id, r.product_id, round(r.score, 4)) for r in answer.results]
        for key, vector in stored.items()
        for answer in [root.search(vector, manifest.space, SearchParams(5, "all"))]
    }
    return tables, {key: np.round(vector, 4).tolist() for key, vector in stored.items()}, products, answers


def assert_equal(actual: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    """Asserts that two states are equal; names the table that differs."""
    for name, rows in expected[0].items():
        assert actual[0][name] == rows, name
    assert actual[1:] == expected[1:]


def traces(root: str, *words: str) -> list[str]:
    """The files of a root that hold one of the words: Parquet in its cells, others in their bytes."""
    files, uris_with_word = storage.files(uris.canonical(root)), []
    for entry in files.walk(uris.canonical(root)):
        content = files.read(entry.uri)
        if entry.uri.endswith(".parquet"):
            content += repr(pq.read_table(io.BytesIO(content)).to_pylist()).encode()
        if any(word.encode() in content for word in words):
            uris_with_word.append(entry.uri)
    return uris_with_word
