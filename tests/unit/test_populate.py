"""Vectors put into an index by way of the disk: what FAISS's own adding gives, with less memory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from likeness.index import distance
from likeness.index import populate as population
from likeness.index.kinds import KINDS
from likeness.index.populate import peak_memory, populate

METRICS = ("cosine", "l2", "ip")
ROWS, DIM = 1500, 48


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So that a graph's links are the same each time."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.maximum(np.random.default_rng(20260103).normal(0.2, 1, (ROWS, DIM)), 0).astype(np.float32)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", KINDS)
def test_an_index_filled_is_byte_for_byte_what_adding_gives(
    tmp_path: Path, vectors: np.ndarray, name: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population, "_ROWS", 400)
    prepared, keys = distance.prepared(vectors, metric), np.arange(ROWS) * 2**40 + 3

    def empty() -> faiss.Index:
        return KINDS[name].make(prepared, ROWS, distance.faiss_metric(metric))

    added = faiss.IndexIDMap2(empty())
    for start in range(0, ROWS, 400):
        added.add_with_ids(prepared[start : start + 400], keys[start : start + 400])
    index = populate(empty(), prepared, keys, tmp_path)
    assert faiss.serialize_index(index).tobytes() == faiss.serialize_index(added).tobytes()
    for one, other in zip(index.search(prepared[:20], 5), added.search(prepared[:20], 5), strict=True):
        assert (one == other).all()
    assert index.reconstruct(int(keys[7])) == pytest.approx(prepared[7], rel=1e-3, abs=1e-3)


def test_float16_vectors_are_written_once(tmp_path: Path, vectors: np.ndarray) -> None:
    path, seen = tmp_path / "float16.faiss", set()
    for name in KINDS:
        populate(KINDS[name].make(vectors, ROWS, faiss.METRIC_L2), vectors, np.arange(ROWS), tmp_path)
        assert path.exists() == (name != "flat")
        if path.exists():
            seen.add((path.stat().st_ino, path.stat().st_mtime_ns))
    assert len(seen) == 1
    assert path.stat().st_size == pytest.approx(2 * DIM * ROWS, abs=200)


def test_an_index_outlives_what_it_was_made_of(tmp_path: Path, vectors: np.ndarray) -> None:
    def create() -> faiss.Index:
        return populate(KINDS["hnsw"].make(vectors, ROWS, faiss.METRIC_L2), vectors.copy(), np.arange(ROWS), tmp_path)

    index = create()
    _, ids = index.search(vectors[:50], 1)
    assert np.mean(ids[:, 0] == np.arange(50)) >= 0.9


MEASURED = """
import sys, threading
from pathlib import Path
import numpy as np
from likeness.index.populate import peak_memory, populate
from likeness.index.kinds import KINDS

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

name, rows, dim, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
rng = np.random.default_rng(1)
out = rng.standard_normal((40, dim), np.float32)
with (folder / "vectors").open("wb") as file:
    for start in range(0, rows, 1000):
        file.write(np.maximum(rng.standard_normal((1000, 40), np.float32) @ out, 0).tobytes())
vectors = np.memmap(folder / "vectors", np.float32, "r", shape=(rows, dim))
before, peak, over = own(), 0, threading.Event()

def watch():
    global peak
    while not over.wait(0.002):
        peak = max(peak, own())

watcher = threading.Thread(target=watch)
watcher.start()
kind = KINDS[name]
index = kind.make(vectors[np.arange(min(rows, max(kind.sample, 1)))], rows, 1)
populate(index, vectors, np.arange(rows), folder)
over.set()
watcher.join()
print(peak_memory(kind, rows, dim) / (peak - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows", "dim"),
    [("flat", 40_000, 512), ("hnsw", 40_000, 2048), ("ivf_rabitq", 60_000, 512), ("hamming", 40_000, 1024)],
)
def test_the_memory_of_a_build_is_foreseen(tmp_path: Path, name: str, rows: int, dim: int) -> None:
    command = [sys.executable, "-c", MEASURED, name, str(rows), str(dim), str(tmp_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert 1 / 1.5 <= float(done.stdout) <= 1.5


def test_float16_vectors_take_no_memory_in_a_build() -> None:
    assert peak_memory(KINDS["flat16"], 1_000_000, 4096) < 0.2e9 < 16e9 < peak_memory(KINDS["flat"], 1_000_000, 4096)
    assert peak_memory(KINDS["hnsw"], 1_000_000, 4096) < 1e9
