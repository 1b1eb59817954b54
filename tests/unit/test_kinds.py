"""Index kinds: chosen by what they reach, exact in their scores, filtered, and mapped from disk."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest

from likeness.core.errors import UsageError
from likeness.core.settings import Index
from likeness.index import distance
from likeness.index.build import BuildSpec, build_shard
from likeness.index.kinds import KINDS, candidates, kind
from likeness.index.manifest import Shard
from likeness.index.pca import principal_axes
from likeness.index.searcher import Searcher
from likeness.index.shard import LoadedShard
from likeness.index.shard_plan import PlannedShard

APPROXIMATE = [name for name in KINDS if not name.startswith("flat")]
METRICS = ("cosine", "l2", "ip")
ROWS, DIM = 6000, 256


def clustered(rows: int, dim: int, seed: int) -> np.ndarray:
    """float32 (rows, dim): noise around 60 points of a space of 24 dimensions, through a ReLU, as features are."""
    fixed = np.random.default_rng(20260102)
    points, out = fixed.standard_normal((60, 24)), fixed.standard_normal((24, dim)) / 5
    rng = np.random.default_rng(seed)
    inner = points[rng.integers(0, 60, rows)] + 0.5 * rng.standard_normal((rows, 24))
    features: np.ndarray = np.maximum(inner @ out + 0.05 * rng.standard_normal((rows, dim)), 0).astype(np.float32)
    return features


def table(vectors: np.ndarray) -> pa.Table:
    ids = [f"{number * 2**40:016x}".ljust(64, "7") for number in range(len(vectors))]
    return pa.table(
        {
            "image_id": ids,
            "shown": [[{"category": "hat", "uri": key, "products": [key]}] for key in ids],
            "vector": [row.tobytes() for row in vectors],
        }
    )


def built(folder: Path, vectors: np.ndarray, budget: float = float("inf"), **settings: Any) -> Shard:
    order = BuildSpec(f"file://{folder}", "b", "s@1", vectors.shape[1], Index(**settings), budget)
    return build_shard(PlannedShard(0, ("hat",)), table(vectors).to_batches(1000), order)


def best(queries: np.ndarray, vectors: np.ndarray, metric: str, k: int) -> list[set[int]]:
    """The rows of the k nearest, by double precision."""
    q, v = (distance.prepared(part, metric).astype(np.float64) for part in (queries, vectors))
    scores = q @ v.T
    if metric == "l2":
        scores = 2 * scores - (v**2).sum(1)
    return [set(row) for row in np.argsort(-scores, axis=1)[:, :k].tolist()]


def recall(rows: np.ndarray, truth: list[set[int]]) -> float:
    return float(np.mean([len(set(row) & true) / len(true) for row, true in zip(rows.tolist(), truth, strict=True)]))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(ROWS, DIM, 1)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clustered(100, DIM, 2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", APPROXIMATE)
def test_an_approximate_kind_finds_the_nearest_with_their_own_scores(
    tmp_path: Path, vectors: np.ndarray, queries: np.ndarray, name: str, metric: str
) -> None:
    record = built(tmp_path, vectors, kind=name, metric=metric)
    assert (record.kind, record.recall.value >= 0.96) == (name, True)
    assert {point.kind for point in record.curve} == {name}
    shard = LoadedShard(record, tmp_path, metric)
    prepared = distance.prepared(queries, metric)
    scores, rows = shard.searcher.nearest(prepared, 10)
    assert recall(rows, best(queries, vectors, metric, 10)) >= 0.95
    for query, row, score in zip(prepared, rows, scores, strict=True):
        own = distance.exact_scores(query[None], distance.prepared(vectors[row], metric), metric)[0]
        assert score == pytest.approx(own, rel=2e-3, abs=2e-3)
        assert (np.diff(score) <= 1e-6).all()


@pytest.mark.parametrize("name", [*APPROXIMATE, "flat16"])
@pytest.mark.parametrize("share", [0.5, 0.05, 0.005])
def test_a_filter_is_searched_within(
    tmp_path: Path, vectors: np.ndarray, queries: np.ndarray, name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.index.searcher._SCANNED", 1000)  # so that the index is asked, where it may be
    shard = LoadedShard(built(tmp_path, vectors, kind=name), tmp_path, "cosine")
    allowed = np.random.default_rng(5).random(ROWS) < share
    _, rows = shard.searcher.nearest(distance.prepared(queries, "cosine"), 10, allowed)
    assert allowed[rows[rows >= 0]].all()
    names = np.flatnonzero(allowed)
    truth = [{int(names[row]) for row in rows_} for rows_ in best(queries, vectors[allowed], "cosine", 10)]
    assert recall(rows, truth) >= 0.95


def test_nothing_allowed_is_nothing_found(tmp_path: Path, vectors: np.ndarray, queries: np.ndarray) -> None:
    shard = LoadedShard(built(tmp_path, vectors, kind="hnsw"), tmp_path, "cosine")
    for allowed, count in ((np.zeros(ROWS, bool), 0), (np.arange(ROWS) == 17, 1)):
        scores, rows = shard.searcher.nearest(distance.prepared(queries, "cosine"), 10, allowed)
        assert scores.shape == rows.shape == (100, count)
        assert (rows == 17).all()


def test_auto_takes_exact_search_where_it_is_fast_and_else_what_reaches_the_recall(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    small = built(tmp_path, vectors[:500], kind="auto")
    assert (small.kind, small.curve) == ("flat", [])
    large = built(tmp_path, vectors, kind="auto", recall=0.97)
    assert large.kind == "hnsw"
    assert [point.recall >= 0.97 for point in large.curve] == [False] * (len(large.curve) - 1) + [True]
    assert large.index_params == large.curve[-1].index_params
    assert large.recall.value >= 0.95


def test_auto_falls_back_to_what_is_exact(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).standard_normal((5000, 512), np.float32)  # no axis is worth more than another
    record = built(tmp_path, noise, kind="auto", recall=1.0)
    assert record.kind == "flat16"
    assert {point.kind for point in record.curve} == {"hnsw", "flat16"}
    assert record.recall.value >= 0.99


def test_auto_keeps_to_the_memory_that_it_is_given() -> None:
    def names(budget: int, rows: int = 100_000) -> list[str]:
        return [one.name for one in candidates("auto", rows, 4096, rows * budget)]

    assert names(10_000) == ["hnsw", "ivf_rabitq", "flat16"]
    assert names(1000) == ["hnsw", "ivf_rabitq"]
    assert names(100) == ["ivf_rabitq"]
    assert names(1) == ["ivf_rabitq"], "the smallest, where nothing fits"
    assert [one.name for one in candidates("auto", 10, 4096, 1)] == ["flat"]


def test_an_unknown_kind_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"index.kind = 'hnws': no such kind; did you mean hnsw\? known: auto, flat"):
        kind("hnws")


@pytest.mark.parametrize("rows", [3, 100, 4000])
def test_main_axes_keep_what_is_long(rows: int) -> None:
    sample = clustered(rows, DIM, 7)
    axes = principal_axes(sample, 48)
    axes_matrix = faiss.vector_to_array(axes.A).reshape(48, DIM)
    assert axes_matrix @ axes_matrix.T == pytest.approx(np.eye(48), abs=1e-4)
    kept = np.linalg.norm(axes.apply(sample)) ** 2
    values = np.linalg.svd(sample, compute_uv=False)
    assert kept >= 0.98 * (values[:48] ** 2).sum()
    assert (faiss.vector_to_array(principal_axes(sample, 48).A) == axes_matrix.ravel()).all()


def test_as_many_axes_are_taken_as_hold_enough() -> None:
    inner = np.random.default_rng(1).standard_normal((3000, 40)) * np.linspace(2, 1, 40)
    sample = (inner @ np.random.default_rng(2).standard_normal((40, DIM))).astype(np.float32)
    values = np.linalg.svd(sample, compute_uv=False) ** 2
    for share in (0.5, 0.9, 0.999):
        count = int((np.cumsum(values) >= share * values.sum()).argmax()) + 1
        assert principal_axes(sample, 200, share).d_out == 32 * -(-count // 32)
    assert principal_axes(sample, 20, 0.999).d_out == 20


def test_vectors_stay_on_disk(tmp_path: Path) -> None:
    """The re-ranked vectors are mapped: loading them and searching adds little memory of the process's own."""
    many = clustered(20_000, 1024, 1)
    record = built(tmp_path, many, kind="hnsw")

    def own() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

    before = own()
    shard = LoadedShard(record, tmp_path, "cosine")
    shard.searcher.nearest(distance.prepared(many[:50], "cosine"), 10)
    assert own() - before < 0.25 * record.index.bytes


@pytest.mark.parametrize("name", KINDS)
def test_the_file_is_plain_faiss(tmp_path: Path, vectors: np.ndarray, name: str) -> None:
    record = built(tmp_path, vectors, kind=name)
    index = faiss.read_index(str(tmp_path / record.index.name))
    assert index.ntotal == ROWS
    _, ids = index.search(distance.prepared(vectors[:20], "cosine"), 1)
    assert np.mean(ids[:, 0] == [int(key[:16], 16) >> 1 for key in table(vectors)["image_id"].to_pylist()[:20]]) >= 0.5


@pytest.mark.parametrize("name", KINDS)
def test_a_torn_file_is_named(tmp_path: Path, vectors: np.ndarray, name: str) -> None:
    record = built(tmp_path, vectors[:3000], kind=name)
    path = tmp_path / record.index.name
    whole = path.read_bytes()
    for share in (0.01, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(Exception, match="cannot be loaded"):
            LoadedShard(record, tmp_path, "cosine")


def test_a_searcher_of_one_row() -> None:
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(4))
    index.add_with_ids(np.ones((1, 4), np.float32), np.array([7]))
    scores, rows = Searcher(index, KINDS["flat"], {}, "cosine").nearest(np.ones((2, 4), np.float32), 10)
    assert (rows.tolist(), scores.tolist()) == ([[0], [0]], [[4], [4]])
