"""The whole pipeline on real photos: what one run writes, and what the next one leaves alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from likeness import storage
from likeness.cli.app import app
from likeness.core.errors import UsageError
from likeness.core.settings import load_settings
from likeness.index.builds import Builds
from likeness.index.distance import exact_scores, prepared
from likeness.models.backbones import resolve
from likeness.models.extractor import Extractor
from likeness.models.runtimes import Machine, open_runtime
from likeness.ops.estimate import estimate
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.spark import jobs
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES, LISTINGS

from .conftest import PROJECT, last_run, run, take


def _vectors(settings):
    """image_id to vector, read by pyarrow from the snapshot's plain Parquet files."""
    vectors = {}
    for path, _ in TableReader(settings).parts(FEATURES):
        table = pq.read_table(path.removeprefix("file://"), partitioning=None)
        for key, vector in zip(table["image_id"].to_pylist(), table["vector"].to_pylist(), strict=True):
            assert key not in vectors
            vectors[key] = np.array(vector, np.float32)
    return vectors


def _root(settings):
    builds = Builds(settings.root)
    manifest = builds.find()
    return manifest, Root(manifest, Leaf(builds, manifest))


@pytest.fixture(scope="module")
def first(tmp_path_factory, model_cache):
    """Settings and facts of a first run over three photos a category; its tests only read."""
    folder = tmp_path_factory.mktemp("first")
    flags = {"root": str(folder / "root"), "source.uri": str(take(folder / "photos", count=3)), "date": "2026-01-02"}
    settings = load_settings(None, flags, (f"extract.cache={model_cache}",))
    return settings, run(settings)


def test_a_first_run_fills_every_table_and_publishes(first):
    settings, facts = first
    assert facts["ingest"]["listed"] == facts["ingest"]["new"] == 30
    assert facts["extract"]["pending"] == facts["extract"]["extracted"] == 30
    manifest, _ = _root(settings)
    assert manifest.images == manifest.products == manifest.vectors == 30
    assert manifest.categories() == dict.fromkeys(manifest.categories(), 3)
    assert len(manifest.categories()) == 10
    assert all(shard.recall.value == 1 for shard in manifest.shards)
    assert Builds(settings.root).problems(manifest) == []
    photos = {photo.read_bytes() for photo in Path(settings.source.uri).rglob("*.jpg")}
    assert set(TableReader(settings).read(IMAGES)["bytes"].to_pylist()) == photos


def test_the_keyed_store_holds_every_vector_and_product(first):
    settings, _ = first
    store = storage.keyed(storage.keyed_uri("", settings.root))
    vectors = _vectors(settings)
    stored = {item.key: vector for item, vector in store.scan_vectors(resolve(settings.extract.space).id)}
    assert stored.keys() == vectors.keys()
    assert all(np.array_equal(stored[key], vectors[key]) for key in vectors)
    facts = {product.product_id: product for product in store.scan_products()}
    listed = TableReader(settings).read(LISTINGS).to_pylist()
    assert {(p.product_id, p.category, i) for p in facts.values() for i in p.image_ids} == {
        (row["product_id"], row["category"], row["image_id"]) for row in listed
    }
    store.close()


def test_the_batch_extracts_what_the_service_encodes(first):
    settings, _ = first
    space = resolve(settings.extract.space)
    runtime = open_runtime(space, "auto", Machine(settings.extract.cache, 2))
    encoder = Extractor(space, runtime, settings.extract, settings.limits)
    batch = _vectors(settings)
    photos = TableReader(settings).photos(list(batch))
    assert len(photos) == 30
    for key, photo in photos.items():
        one = encoder.extract_one(photo)[0]
        cosine = one @ batch[key] / np.linalg.norm(one) / np.linalg.norm(batch[key])
        assert cosine >= 0.9999


def test_torch_on_the_cpu_gives_the_same_answers_as_openvino(configure, tmp_path):
    source, vectors, answers = take(tmp_path / "photos", "shoes", "pants", "dress", count=4), [], []
    for runtime in ("openvino", "torch"):
        settings = configure(source, f"extract.runtime={runtime}", root=tmp_path / runtime)
        run(settings)
        vectors.append(_vectors(settings))
        manifest, root = _root(settings)
        params = SearchParams(6, "all")
        answers.append(
            [root.search(vectors[0][key], manifest.space, params).results for key in sorted(vectors[0])],
        )
    one, other = vectors
    assert one.keys() == other.keys()
    for key, vector in one.items():
        assert vector @ other[key] >= 0.9999 * np.linalg.norm(vector) * np.linalg.norm(other[key])
    for mine, theirs in zip(*answers, strict=True):
        assert [result.image_id for result in mine] == [result.image_id for result in theirs]
        assert np.allclose([result.score for result in mine], [result.score for result in theirs], atol=1e-3)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, model_cache):
    """configure(metric): settings on one root that holds the vectors of four photos a category."""
    folder = tmp_path_factory.mktemp("extracted")
    flags = {"root": str(folder / "root"), "source.uri": str(take(folder / "photos", count=4)), "date": "2026-01-02"}

    def configure(metric: str = "cosine"):
        words = (f"extract.cache={model_cache}", f"index.metric={metric}", "index.max_shard_vectors=3")
        return load_settings(None, flags, words)

    jobs.ingest_job(configure())
    jobs.extract_job(configure())
    return configure


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_sharded_search_is_exact(extracted, metric):
    """Ids and scores equal a brute-force numpy search over vectors read without Spark or FAISS."""
    settings = extracted(metric)
    jobs.index_job(settings)
    jobs.publish_job(settings)
    manifest, root = _root(settings)
    assert manifest.metric == metric
    assert max(shard.parts for shard in manifest.shards) == 2
    stored = _vectors(settings)
    keys, vectors = sorted(stored), np.stack([stored[key] for key in sorted(stored)]).astype(np.float64)
    rng = np.random.default_rng(5)
    for query in [*vectors[rng.integers(0, len(keys), 5)], *rng.normal(0.4, 1, (5, vectors.shape[1]))]:
        query = query.astype(np.float32)
        if metric == "cosine":
            scores = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query.astype(np.float64))
        elif metric == "l2":
            scores = -np.linalg.norm(vectors - query, axis=1)
        else:
            scores = vectors @ query
        best = sorted(range(len(keys)), key=lambda row: (-scores[row], keys[row]))[:10]
        answer = root.search(query, manifest.space, SearchParams(10, "all"))
        assert [result.image_id for result in answer.results] == [keys[row] for row in best]
        scores_found = np.array([result.score for result in answer.results])
        assert np.all(np.abs(scores_found - scores[best]) <= 1e-5 * np.maximum(1, np.abs(scores[best])))
        distance = 1 - scores_found if metric == "cosine" else -scores_found
        assert np.allclose([result.distance for result in answer.results], distance)
        assert answer.coverage.searched == answer.coverage.vectors == len(keys)


def test_a_run_without_changes_reads_no_photo_and_runs_no_model(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", "shoes")
    settings = configure(source)
    run(settings)
    before = Builds(settings.root).find().build
    for photo in source.rglob("*.jpg"):  # whoever opened one now would find garbage
        status = photo.stat()
        photo.write_bytes(b"x" * status.st_size)
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
    empty = tmp_path / "no-models"
    facts = run(configure(source, f"extract.cache={empty}"))
    assert facts["ingest"]["existing"] == facts["ingest"]["listed"] == 6
    assert facts["ingest"]["read"] == facts["extract"]["pending"] == facts["load"]["vectors"] == 0
    assert not empty.exists()
    assert Builds(settings.root).find().build == before
    assert facts["start"]["snapshots"] == facts["end"]["snapshots"]


def test_every_command_answers_for_a_real_root(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", "hat", "shoes"))
    run(settings)

    def likeness(*words: str) -> str:
        command = [sys.executable, "-m", "likeness.cli", *words, "--root", settings.root]
        done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    photo = next((tmp_path / "photos" / "hat").iterdir())
    grid = tmp_path / "grid.png"
    answer = json.loads(likeness("search", str(photo), "--category", "all", "-k", "4", "--json", "--save", str(grid)))
    assert set(answer) == {"space", "build", "category", "coverage", "results", "hints", "took_ms"}
    assert answer["results"][0]["product_id"] == f"hat/{photo.name}"
    assert answer["results"][0]["score"] > 0.9999
    assert len(answer["results"]) == 4
    assert grid.read_bytes().startswith(b"\x89PNG")
    likeness("hide", f"hat/{photo.name}")
    without = json.loads(likeness("search", str(photo), "-k", "4", "--json"))
    assert f"hat/{photo.name}" not in [result["product_id"] for result in without["results"]]
    assert len(without["results"]) == 4
    assert [row["product_id"] for row in json.loads(likeness("show", "--json"))] == [f"hat/{photo.name}"]
    likeness("show", f"hat/{photo.name}")
    assert json.loads(likeness("search", str(photo), "--json"))["results"][0]["product_id"] == f"hat/{photo.name}"
    one = json.loads(likeness("search", str(photo), "--category", "shoes", "--json"))
    assert {result["category"] for result in one["results"]} == {"shoes"}
    assert one["coverage"]["searched"] == 3
    status = json.loads(likeness("status", "--json"))
    assert status["matrix"][0] | {"photos": 6, "present": 6, "missing": 0, "failed": 0} == status["matrix"][0]
    assert status["in_service"]["since"] == {"vectors": 0, "listings": 0}
    assert (status["leases"], status["failures"], status["hidden"]) == ([], {}, 0)
    assert json.loads(likeness("unlock", "--json")) == []
    assert "nothing has changed since" in likeness("status")
    assert json.loads(likeness("verify", "--json"))["ok"] is True
    runs = json.loads(likeness("runs", "list", "--json"))
    assert [row["status"] for row in runs] == ["done"]
    assert json.loads(likeness("runs", "show", runs[0]["run_id"], "--json"))["facts"]["extract"]["extracted"] == 6
    assert json.loads(likeness("failures", "list", "--json")) == []
    likeness("export", str(tmp_path / "vectors.parquet"))
    exported = pq.read_table(tmp_path / "vectors.parquet")
    assert dict(zip(exported["image_id"].to_pylist(), exported["vector"].to_pylist(), strict=True)) == {
        key: vector.tolist() for key, vector in _vectors(settings).items()
    }


def test_a_plan_comes_true(configure, tmp_path):
    source = take(tmp_path / "photos", "hat")
    settings = configure(source)
    space = resolve(settings.extract.space)

    def counts() -> dict[str, int]:
        return {step.stage: step.count for step in estimate(settings, space)}

    assert {step.seconds for step in estimate(settings, space)} == {None}
    for more, count in (("hat", 3), ("shoes", 2)):
        take(source, more, count=count)
        planned = counts()
        facts = run(settings)
        assert planned == {
            "ingest": facts["ingest"]["read"],
            "extract": facts["extract"]["pending"],
            "load": facts["load"]["vectors"],
            "index": facts["index"]["vectors"],
        }
        assert planned["extract"] == count
    steps = {step.stage: step for step in estimate(settings, space)}
    assert {name: step.count for name, step in steps.items()} == {"ingest": 0, "extract": 0, "load": 0, "index": 5}
    assert steps["index"].stored == steps["index"].memory == 5 * (4 * 1280 + 8)
    assert steps["index"].seconds > 0
    other = configure(source, "index.kind=hnsw").model_copy(
        update={"source": settings.source.model_copy(update={"uri": ""})}
    )
    assert {step.stage: step.count for step in estimate(other, space)} == {name: s.count for name, s in steps.items()}
    with pytest.raises(UsageError, match="no such file or folder"):
        estimate(configure(tmp_path / "nowhere"), space)


def test_rollback_brings_the_build_before_back(configure, tmp_path):
    source = take(tmp_path / "photos", "hat")
    settings = configure(source)
    run(settings)
    first = Builds(settings.root).find()
    run(configure(take(source, "hat", start=3, count=1)))
    second = Builds(settings.root).find()
    assert (first.images, second.images) == (3, 4)
    assert Builds(settings.root).rollback() == (second.path, first.path)
    assert _root(settings)[0].build == first.build


def test_a_night_after_a_rollback_builds_and_does_not_publish(configure, tmp_path, capsys):
    source = take(tmp_path / "photos", "hat")
    settings = configure(source)
    run(settings)
    builds = Builds(settings.root)
    first = builds.find()
    run(configure(take(source, "hat", start=3, count=1)))
    builds.rollback()
    for count in (4, 5):  # two nights, each with a photo more
        capsys.readouterr()
        facts = run(configure(take(source, "hat", start=count, count=1)))
        third = builds.read(builds.of(first.space)[-1])
        assert third.images == count + 1
        assert facts["publish"]["unpublished"] == third.path
        assert facts["publish"]["pinned"] == last_run(settings)["build"] == builds.find().path == first.path
        printed = capsys.readouterr()
        assert f"publish: {third.build} is not published: a rollback put {first.path} in service at" in printed.err
        assert f"{third.path} is not published: a rollback pinned {first.path}" in printed.out
        report = Path(settings.root, "reports", "latest.html").read_text()
        assert f"Build {third.build} with {count + 1} images in 1 shard is not published." in report
        assert "<dt>pinned</dt>" in report
        assert builds.of(first.space) == [first.path, third.path], "builds that were not published do not pile up"
    facts = run(settings)
    assert (facts["index"]["step"], facts["index"]["built"]) == ("unchanged", 0), "that build is not built again"
    assert facts["publish"]["unpublished"] == third.path
    run(settings, jobs.gc_job)
    assert builds.of(first.space) == [first.path, third.path]
    assert builds.problems(builds.find()) == builds.problems(third) == []
    status = CliRunner().invoke(app, ["status", "--root", settings.root]).output
    assert f"a rollback put {first.path} in service at" in status
    assert "builds with them, and does not publish" in status
    run(settings, jobs.publish_job)
    assert builds.find().path == third.path
    assert run(settings)["index"]["step"] == "unchanged"
    builds.rollback()
    builds.release()
    facts = run(settings)
    assert "unpublished" not in facts["publish"]
    assert (builds.find().images, builds.pins()) == (6, [])


def test_a_query_of_another_space_is_refused(first):
    from likeness.core.errors import SpaceMismatch

    manifest, root = _root(first[0])
    with pytest.raises(SpaceMismatch, match=r"alexnet\.fc6@00000000"):
        root.search(np.zeros(manifest.dim, np.float32), "alexnet.fc6@00000000", SearchParams(3))


def test_scores_are_cosines():
    rng = np.random.default_rng(1)
    queries, rows = rng.normal(size=(3, 8)), rng.normal(size=(5, 8))
    expected = [[q @ r / np.sqrt(q @ q) / np.sqrt(r @ r) for r in rows] for q in queries]
    scores = exact_scores(prepared(queries, "cosine"), prepared(rows, "cosine"), "cosine")
    assert np.allclose(scores, expected, atol=1e-6)


def test_report_is_written(first):
    settings, _ = first
    (report,) = [path for path in Path(settings.root, "reports").iterdir() if path.name != "latest.html"]
    assert Builds(settings.root).find().build in report.read_text()
