"""Shards: built, audited, loaded and searched, against numpy in double precision over the same vectors."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from tests.hits import hits_of

from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Index
from likeness.index import build, distance, kinds, populate, recall_audit
from likeness.index.build import BuildSpec, build_shard
from likeness.index.build_files import checksum_of
from likeness.index.ids import IDS, faiss_id
from likeness.index.kinds import KINDS, Kind, kind
from likeness.index.manifest import Shard
from likeness.index.recall_audit import RecallAudit
from likeness.index.shard import LoadedShard
from likeness.index.shard_plan import PlannedShard

METRICS = ("cosine", "l2", "ip")
PLACE = PlannedShard(3, ("裤子/2.0",), 1, 2)


def made_up(rng: np.random.Generator, rows: int, dim: int) -> pa.Table:
    """Rows as the index job gives them: ids in order, vectors as a ReLU gives them."""
    ids = sorted(rng.bytes(32).hex() for _ in range(rows))
    vectors = np.maximum(rng.normal(0.3, 1, (rows, dim)), 0).astype(np.float32)
    return table(ids, vectors)


def table(ids: list[str], vectors: np.ndarray | list[list[float]]) -> pa.Table:
    columns = {
        "image_id": ids,
        "shown": [
            [
                {
                    "category": "裤子/2.0",
                    "uri": f"file:///{key[:6]}.jpg",
                    "products": sorted([f"p{key[:4]}", f"p{key[4:8]}"]),
                }
            ]
            for key in ids
        ],
        "vector": [np.asarray(vector, "<f4").tobytes() for vector in vectors],
    }
    return pa.table(columns)


def matrix(rows: pa.Table) -> np.ndarray:
    return np.stack([np.frombuffer(vector, "<f4") for vector in rows["vector"].to_pylist()])


def built(
    folder: Path, rows: pa.Table, dim: int, batch: int = 37, place: PlannedShard = PLACE, **settings: Any
) -> tuple[Shard, LoadedShard]:
    index_settings = Index(**settings)
    record = build_shard(place, rows.to_batches(batch), BuildSpec(f"file://{folder}", "b", "s@1", dim, index_settings))
    return record, LoadedShard(record, folder, index_settings.metric)


def exact(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """Scores in double precision: cosine, inner product, or minus the Euclidean distance."""
    q, v = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return -np.linalg.norm(q[:, None] - v[None], axis=2)
    scores = q @ v.T
    if metric == "cosine":
        lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(v, axis=1)[None]
        scores = np.divide(scores, lengths, out=np.zeros_like(scores), where=lengths > 0)
    return scores


# -- ids


def test_ids_are_stable_positive_and_of_63_bits() -> None:
    assert faiss_id("f" * 64) == 2**63 - 1
    assert faiss_id("0" * 64) == 0
    assert faiss_id("0000000000000002" + "f" * 48) == 1
    for number in range(200):
        digest = hashlib.sha256(str(number).encode())
        assert faiss_id(digest.hexdigest()) == int.from_bytes(digest.digest()[:8], "big") // 2
        assert np.int64(faiss_id(digest.hexdigest())) >= 0


# -- search


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [1, 3, 500])
def test_a_flat_shard_is_exact(tmp_path: Path, rng: np.random.Generator, metric: str, rows: int) -> None:
    dim, k = 64, 10
    data = made_up(rng, rows, dim)
    record, shard = built(tmp_path, data, dim, metric=metric)
    queries = np.maximum(rng.normal(0.3, 1, (7, dim)), 0).astype(np.float32)
    truth = exact(queries, matrix(data), metric)
    for query, hits in zip(truth, hits_of(shard, distance.prepared(queries, metric), k), strict=True):
        best = np.argsort(-query, kind="stable")[:k]
        assert [hit.image_id for hit in hits] == [data["image_id"][int(row)].as_py() for row in best]
        assert [hit.score for hit in hits] == pytest.approx(query[best].tolist(), rel=1e-5, abs=1e-6)
    assert record.recall.value == 1.0
    assert (record.recall.k, record.recall.queries) == (min(10, rows), 64)


@pytest.mark.parametrize("metric", METRICS)
def test_half_precision_is_close(tmp_path: Path, rng: np.random.Generator, metric: str) -> None:
    data = made_up(rng, 400, 64)
    record, shard = built(tmp_path, data, 64, kind="flat16", metric=metric)
    queries = np.maximum(rng.normal(0.3, 1, (9, 64)), 0).astype(np.float32)
    truth = exact(queries, matrix(data), metric)
    ids = data["image_id"].to_pylist()
    for query, hits in zip(truth, hits_of(shard, distance.prepared(queries, metric), 10), strict=True):
        scores = {ids[row]: query[row] for row in range(400)}
        assert [hit.score for hit in hits] == pytest.approx([scores[hit.image_id] for hit in hits], rel=2e-3)
        assert min(scores[hit.image_id] for hit in hits) >= np.sort(query)[-10] - 2e-3 * abs(query.min())
    assert record.recall.value >= 0.95


@pytest.mark.parametrize("kind_", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_zero_vectors_are_found_last_or_not_at_all(
    tmp_path: Path, rng: np.random.Generator, metric: str, kind_: str
) -> None:
    vectors = np.abs(rng.standard_normal((20, 8), np.float32))
    vectors[[3, 7]] = 0
    data = table(sorted(rng.bytes(32).hex() for _ in range(20)), vectors)
    _, shard = built(tmp_path, data, 8, metric=metric, kind=kind_)
    zero = {data["image_id"][3].as_py(), data["image_id"][7].as_py()}
    (hits,) = hits_of(shard, distance.prepared(vectors[:1], metric), 20)
    scores = {hit.image_id: hit.score for hit in hits}
    assert len(scores) == 20
    assert np.isfinite(list(scores.values())).all()
    if metric != "l2":
        assert {hit.image_id for hit in hits[-2:]} == zero
        assert [scores[key] for key in zero] == [0, 0]
    (hits,) = hits_of(shard, np.zeros((1, 8), np.float32), 20)
    assert np.isfinite([hit.score for hit in hits]).all()


@pytest.mark.parametrize("noise", [0, 1e-4])
def test_vectors_that_are_all_the_same(tmp_path: Path, rng: np.random.Generator, noise: float) -> None:
    vectors = (1 + noise * rng.standard_normal((500, 24))).astype(np.float32)
    data = table(sorted(rng.bytes(32).hex() for _ in range(500)), vectors)
    record, shard = built(tmp_path, data, 24)
    assert record.recall.value == 1.0  # ties are not held against the index
    (hits,) = hits_of(shard, distance.prepared(np.ones((1, 24)), "cosine"), 5)
    assert [hit.score for hit in hits] == pytest.approx([1] * 5)


def test_a_hit_says_all_that_is_known(tmp_path: Path, rng: np.random.Generator) -> None:
    data = made_up(rng, 30, 8)
    _, shard = built(tmp_path, data, 8)
    for number in (0, 29):
        (hits,) = hits_of(shard, distance.prepared(matrix(data)[number : number + 1], "cosine"), 1)
        row = data.slice(number, 1).to_pylist()[0]
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        listing = {"category": hits[0].category, "uri": hits[0].uri, "products": list(hits[0].products)}
        assert (hits[0].image_id, [listing]) == (row["image_id"], row["shown"])


def test_batches_and_large_shards_change_nothing(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made_up(rng, 300, 16)
    records = []
    for number, (rows, batch) in enumerate([(8192, 300), (64, 7), (1, 64), (300, 299)]):
        monkeypatch.setattr(populate, "_ROWS", rows)
        monkeypatch.setattr(recall_audit, "ROWS", rows)
        records.append(built(tmp_path / str(number), data, 16, batch)[0])
    assert len({(record.index.sha256, record.ids.sha256, record.recall) for record in records}) == 1


# -- what is written


def test_the_files_are_as_the_record_says(tmp_path: Path, rng: np.random.Generator) -> None:
    data = made_up(rng, 40, 8)
    record, _ = built(tmp_path, data, 8)
    assert (record.number, record.categories, record.part, record.parts, record.vectors) == (
        3,
        {"裤子/2.0": 40},
        1,
        2,
        40,
    )
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["shard-00003.arrow", "shard-00003.faiss"]
    for file in (record.index, record.ids):
        assert (tmp_path / file.name).stat().st_size == file.bytes
        with (tmp_path / file.name).open("rb") as handle:
            assert checksum_of(handle) == file.sha256
    index = faiss.read_index(str(tmp_path / record.index.name))
    assert (index.ntotal, index.d) == (40, 8)
    ids = pa.ipc.open_file(tmp_path / record.ids.name).read_all()
    assert ids.schema == IDS
    assert ids["image_id"].to_pylist() == data["image_id"].to_pylist()
    assert ids["id"].to_pylist() == [faiss_id(key) for key in data["image_id"].to_pylist()]
    assert ids["shown"].to_pylist() == data["shown"].to_pylist()


def test_a_build_may_be_repeated(tmp_path: Path, rng: np.random.Generator) -> None:
    data = made_up(rng, 40, 8)
    assert built(tmp_path, data, 8)[0] == built(tmp_path, data, 8)[0]
    assert len(list(tmp_path.glob("b/*"))) == 2


def test_nothing_is_left_on_the_local_disk(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    built(tmp_path / "build", made_up(rng, 5, 8), 8)
    with pytest.raises(DataError):
        built(tmp_path / "build", made_up(rng, 5, 8), 9)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("kind_", KINDS)
def test_a_kind_costs_what_it_says(tmp_path: Path, rng: np.random.Generator, kind_: str) -> None:
    """In memory, but for the float16 vectors that an approximate kind may leave on disk."""
    data = made_up(rng, 4000, 96)
    few, many = (built(tmp_path / str(n), data[:n], 96, kind=kind_)[0].index.bytes for n in (2000, 4000))
    stored = 0 if kind_.startswith("flat") else 2 * 96
    assert (many - few) / 2000 == pytest.approx(KINDS[kind_].bytes_per_vector(96) + stored, rel=0.1)


# -- what is refused


def test_colliding_ids_are_refused(tmp_path: Path) -> None:
    ids = ["a" * 16 + "0" * 48, "a" * 16 + "1" * 48]
    with pytest.raises(DataError, match=f"{ids[0]} and {ids[1]} share the id"):
        built(tmp_path, table(ids, [[1, 2], [3, 4]]), 2)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_differ_in_their_last_used_bit_are_not_refused(tmp_path: Path) -> None:
    ids = ["a" * 15 + "0" + "0" * 48, "a" * 15 + "2" + "0" * 48]
    assert built(tmp_path, table(ids, [[1, 2], [3, 4]]), 2)[0].vectors == 2


@pytest.mark.parametrize("ids", [["b" * 64, "a" * 64], ["a" * 64, "a" * 64]])
def test_rows_out_of_order_or_twice_are_refused(tmp_path: Path, ids: list[str]) -> None:
    with pytest.raises(DataError):
        built(tmp_path, table(ids, [[1, 2], [3, 4]]), 2)


@pytest.mark.parametrize(
    "vectors",
    [
        [[1, 2, 3]] * 2,
        [[1, 2]] * 2,
        [[1, 2, 3, 4], [1, 2]],
        [[1, 2], [1, 2, 3, 4, 5, 6]],  # as many values in all as there should be
        [[1, 2, 3, float("nan")], [1, 2, 3, 4]],
        [[1, 2, 3, 4], [1, float("inf"), 3, 4]],
        [[1, 2, 3, 4], [1, None, 3, 4]],
        [[1, 2, 3, 4], []],
    ],
)
def test_damaged_vectors_are_refused(tmp_path: Path, vectors: list[list[float]]) -> None:
    with pytest.raises(DataError, match="4 finite values"):
        built(tmp_path, table(["a" * 64, "b" * 64], vectors), 4)


def test_what_does_not_fit_is_refused_before_the_start() -> None:
    def refuse(rows: int, **settings: Any) -> None:
        index_settings = Index(**settings)
        budget = index_settings.memory_gb * 1e9 / (rows + 10)
        build.refuse_memory([10, rows], BuildSpec("", "b", "s@1", 4096, index_settings, budget))

    refuse(1_000_000)
    refuse(50_000, kind="flat")
    with pytest.raises(
        UsageError, match=r"1,000,000 vectors takes .* GB to build, index\.build_gb is 2\.0; set"
    ) as error:
        refuse(1_000_000, kind="flat", memory_gb=100)
    fits = int(str(error.value).partition("index.max_shard_vectors=")[2].partition(",")[0])
    refuse(fits, kind="flat", memory_gb=100)
    with pytest.raises(UsageError, match=r"2,000,010 vectors take .* GB to search as hnsw, index\.memory_gb is 0\.5"):
        refuse(2_000_000, kind="hnsw", memory_gb=0.5)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"index\.kind = 'flat32'.*did you mean flat"):
        kind("flat32")


def test_a_shard_that_is_not_as_the_manifest_says_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    record, _ = built(tmp_path, made_up(rng, 10, 8), 8)
    with pytest.raises(DataError, match="the manifest says 11"):
        LoadedShard(record.model_copy(update={"vectors": 11}), tmp_path, "cosine")
    (tmp_path / record.index.name).write_bytes((tmp_path / record.index.name).read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be loaded"):
        LoadedShard(record, tmp_path, "cosine")


# -- the audit


class Spied:
    """A search that keeps what it was asked and what it answered."""

    def __init__(self, search: Any) -> None:
        self._search = search

    def __call__(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        self.queries = queries.copy()
        scores, self.rows = self._search(queries, k)
        return scores, self.rows


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[Spied]:
    """The searches that were audited."""
    seen: list[Spied] = []
    real = RecallAudit.recall

    def spying(audit: RecallAudit, search: Any) -> Any:
        seen.append(Spied(search))
        return real(audit, seen[-1])

    monkeypatch.setattr(RecallAudit, "recall", spying)
    return seen


def recall(spy: Spied, data: pa.Table, metric: str) -> float:
    """The share of the true k nearest that were found, with ties counted as found."""
    truth = exact(spy.queries, matrix(data), metric)
    good = 0
    for scores, rows in zip(truth, spy.rows.tolist(), strict=True):
        kth = np.sort(scores)[-len(rows)]
        good += sum(scores[row] >= kth - 1e-5 * max(1, abs(kth)) for row in rows if row >= 0)
    return good / spy.rows.size


def poor(sample: np.ndarray, rows: int, metric: int) -> faiss.Index:
    """Two sub-quantisers of four centroids, trained on noise."""
    index = faiss.IndexPQ(sample.shape[1], 2, 2, metric)
    index.train(np.random.default_rng(0).standard_normal((200, sample.shape[1]), np.float32))
    return index


def forgetful(sample: np.ndarray, rows: int, metric: int) -> faiss.Index:
    """Searches one of 64 lists, so that some of the k are missing (-1)."""
    index = faiss.index_factory(sample.shape[1], "IVF64,Flat", metric)
    index.train(np.random.default_rng(0).standard_normal((4000, sample.shape[1]), np.float32))
    return index


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("make", [poor, forgetful])
def test_a_poor_index_gets_the_recall_it_has(
    tmp_path: Path,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    spied: list[Spied],
    metric: str,
    make: Callable[[np.ndarray, int, int], faiss.Index],
) -> None:
    monkeypatch.setitem(kinds.KINDS, "poor", Kind("poor", "", make, lambda dim: 1, search_parameters=lambda *_: None))
    monkeypatch.setattr(recall_audit, "ROWS", 150)  # the audit goes by parts
    data = made_up(rng, 600, 16)
    record = build_shard(
        PLACE, data.to_batches(), BuildSpec(f"file://{tmp_path}", "b", "s@1", 16, Index(kind="poor", metric=metric))
    )
    expected = recall(spied[0], data, metric)
    assert (spied[0].rows == -1).any() == (make is forgetful)
    assert record.recall.value == pytest.approx(expected, abs=1e-9)
    assert record.recall.value < 0.8
    assert record.recall.value > 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [0, 3])
def test_an_exact_index_gets_a_recall_of_one(
    tmp_path: Path, rng: np.random.Generator, spied: list[Spied], metric: str, offset: int
) -> None:
    """Also where the vectors lie closer to each other than to the origin."""
    data = made_up(rng, 3000, 64)
    data = table(data["image_id"].to_pylist(), matrix(data) + offset)
    record, _ = built(tmp_path, data, 64, 1000, metric=metric, audit_queries=100, audit_k=20)
    assert record.recall.value == 1.0
    assert (record.recall.k, record.recall.queries) == (20, 100)
    assert recall(spied[0], data, metric) > 0.99


def audit_queries(vectors: np.ndarray, seed: int, metric: str = "l2", queries: int = 64) -> np.ndarray:
    """The queries of an audit."""
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    spy = Spied(index.search)
    RecallAudit(vectors, Index(metric=metric, audit_queries=queries), seed).recall(spy)
    return spy.queries


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [1, 2, 40])
def test_a_few_long_vectors_get_a_recall_of_one(
    tmp_path: Path, rng: np.random.Generator, metric: str, rows: int
) -> None:
    vectors = 100 + rng.standard_normal((rows, 1280), np.float32)
    data = table(sorted(rng.bytes(32).hex() for _ in range(rows)), vectors)
    assert built(tmp_path, data, 1280, metric=metric)[0].recall.value == 1.0


def test_the_queries_are_held_out(rng: np.random.Generator) -> None:
    for rows in (2, 3, 50):
        vectors = rng.standard_normal((rows, 8), np.float32)
        queries = audit_queries(vectors, 1, queries=200)
        nearest = np.abs(queries[:, None] - vectors[None]).max(axis=2).min(axis=1)
        assert (nearest > 1e-4).all(), "a query is one of the rows"


def test_the_queries_lie_where_the_rows_do_and_are_none_even_of_many_equal_ones(rng: np.random.Generator) -> None:
    centres = 100 * rng.standard_normal((5, 8), np.float32)
    vectors = np.repeat(centres, 40, axis=0) + rng.standard_normal((200, 8), np.float32)
    vectors[40:46] = vectors[40]
    queries = audit_queries(vectors, 1, queries=300)
    gaps = np.linalg.norm(queries[:, None] - vectors[None], axis=2).min(axis=1)
    assert gaps.max() < 10, "a query lies between two clusters"
    assert gaps.min() > 1e-4


def test_the_audit_repeats_itself_and_shards_differ(rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((100, 8), np.float32)
    queries = [audit_queries(vectors, seed) for seed in (1, 1, 2)]
    assert np.array_equal(queries[0], queries[1])
    assert not np.array_equal(queries[0], queries[2])
