"""Compaction keeps every row and whatever is needed of the past; erasure keeps nothing."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runs import PROJECT, Checkpoints, Job, assert_equal, state, traces

from likeness.core.errors import UsageError
from likeness.core.settings import load_settings
from likeness.index.builds import Builds
from likeness.spark import jobs
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES, LISTINGS, RUNS, SOURCES

from .conftest import run, take

NIGHTS = 3


def likeness(command: str, settings, *words: str) -> "subprocess.CompletedProcess[str]":
    words = [*words, "--root", settings.root, "--set", f"extract.cache={settings.extract.cache}"]
    called = [sys.executable, "-m", "likeness.cli", command, *words]
    return subprocess.run(called, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_compaction_keeps_rows_builds_and_how_far_loads_came(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", "shoes", count=1)
    settings = configure(source, "index.keep_builds=2")
    for night in range(NIGHTS):
        take(source, "hat", start=night + 1, count=1)
        run(settings.model_copy(update={"date": settings.date.replace(day=night + 1)}))
    before, warehouse = state(settings), TableReader(settings)
    kept = list(Builds(settings.root).all())
    stray = Path(settings.root, "tables", "likeness", "features", "data", "left-by-a-kill.parquet")
    shutil.copy(warehouse.parts(FEATURES)[0][0].removeprefix("file:"), stray)
    facts = run(settings, jobs.compact_job)
    assert_equal(state(settings), before)
    assert not stray.exists()
    assert {name: done[1] for name, done in facts["compact"]["tables"].items()} == {
        "sources": 1,
        "images": NIGHTS,  # a file an ingest date
        "listings": 1,
        "features": NIGHTS,
        "runs": 1,
    }
    assert len(warehouse.parts(IMAGES)) == len(warehouse.parts(FEATURES)) == NIGHTS
    assert facts["gc"]["tables"]["features"] == [NIGHTS + 1, 3]  # of two builds, and of the compaction
    for build in kept:
        assert likeness("verify", settings, "--build", build).returncode == 0
    take(source, "hat", start=NIGHTS + 1, count=1)
    facts = run(settings)
    assert facts["load"]["vectors"] == 1
    assert facts["load"]["deleted"] == 0
    assert facts["extract"]["pending"] == 1
    run(settings, jobs.index_job)
    assert run(settings, jobs.gc_job)["gc"]["builds"] == 0
    assert likeness("verify", settings).returncode == 0


INDEXED = "indexed on two nights"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, model_cache):
    """Products that share photos, indexed on two nights: settings, rows of the catalogue, its writer, and copies."""
    folder = tmp_path_factory.mktemp("shop")
    photos = take(folder / "photos", "hat", "shoes", count=4)
    files = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
    rows = [("secret-hat", files[0]), ("secret-hat", files[1]), ("other-hat", files[1])]
    rows += [(f"product-{n}", file) for n, file in enumerate(files[2:])]
    catalogue = photos / "catalogue.csv"

    def write(rows: list[tuple[str, str]]) -> None:
        with catalogue.open("w", newline="") as file:
            csv.writer(file).writerows([("product_id", "image", "category")])
            csv.writer(file).writerows((product, image, image.partition("/")[0]) for product, image in rows)

    flags = {"root": str(folder / "root"), "source.uri": str(photos), "date": "2026-01-02"}
    settings = load_settings(None, flags, (f"extract.cache={model_cache}",))
    write(rows[:-1])
    run(settings)
    write(rows)
    run(settings)
    assert len(list(Builds(settings.root).all())) == 2
    checkpoints = Checkpoints(settings.root, folder)
    checkpoints.save(INDEXED)
    return settings, rows, write, checkpoints


@pytest.fixture
def shop(prepared):
    """The root and its catalogue as two nights left them."""
    settings, rows, write, checkpoints = prepared
    checkpoints.restore(INDEXED)
    write(rows)
    return settings, rows, write


def photo_of(settings, product: str) -> set[str]:
    rows = TableReader(settings).read(LISTINGS, ("product_id", "image_id")).to_pylist()
    return {row["image_id"] for row in rows if row["product_id"] == product}


@pytest.mark.slow
def test_a_forgotten_product_leaves_no_trace(shop):
    settings, rows, write = shop
    shared = photo_of(settings, "other-hat")
    gone = photo_of(settings, "secret-hat") - shared
    places = [row["uri"] for row in TableReader(settings).read(SOURCES).to_pylist() if row["image_id"] in gone]
    assert len(gone) == len(places) == len(shared) == 1
    assert traces(settings.root, "secret-hat", *gone, *places)
    before = state(settings)
    with pytest.raises(UsageError, match="no listing names product 'secret-cap'; nothing is changed"):
        jobs.forget_products(settings, ["secret-cap", "secret-hat"])
    assert_equal(state(settings), before)
    jobs.forget_products(settings, ["secret-hat"])
    assert traces(settings.root, "secret-hat", *gone, *places) == []
    tables, vectors, _, answers = state(settings)
    assert shared <= vectors.keys() & answers.keys()
    assert len(vectors) == len(tables["images"]) == 7
    assert likeness("verify", settings).returncode == 0
    write([row for row in rows if row[0] != "secret-hat"])
    assert run(settings)["ingest"]["new"] == 0


POINTS = ("rows of features", "rows of listings", "is in service")


@pytest.fixture(scope="module")
def erasure(prepared):
    """An erasure that is killed at its last point, with copies of the root at all points."""
    settings, _, _, checkpoints = prepared
    checkpoints.restore(INDEXED)
    words = ["forget", "secret-hat", "--root", settings.root, "--set", f"extract.cache={settings.extract.cache}"]
    with Job([sys.executable, "-m", "likeness.cli", *words]) as job:
        checkpoints.take(job, POINTS)
        job.kill()
    return checkpoints


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_a_killed_erasure_is_completed_by_the_same_command(point, shop, erasure):
    settings, _, _ = shop
    gone = photo_of(settings, "secret-hat") - photo_of(settings, "other-hat")
    erasure.restore(point)
    jobs.forget_products(settings, ["secret-hat"])
    assert traces(settings.root, "secret-hat", *gone) == []
    assert likeness("verify", settings).returncode == 0
    statuses = [row["status"] for row in TableReader(settings).read(RUNS).sort_by("started").to_pylist()]
    assert statuses == ["done", "done", "killed", "done"]


@pytest.mark.slow
def test_the_last_product_takes_the_index_with_it(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", "hat", count=1))
    run(settings)
    product = next(iter(TableReader(settings).read(LISTINGS, ("product_id",))["product_id"].to_pylist()))
    jobs.forget_products(settings, [product])
    assert traces(settings.root, product) == []
    assert Builds(settings.root).current() is None


@pytest.mark.slow
def test_a_copied_root_goes_on_where_the_old_one_was(shop, configure, tmp_path):
    settings, rows, write = shop
    source = Path(settings.source.uri)
    other = configure(source, root=tmp_path / "owner's place" / "root")
    jobs.copy_root(settings, other.root)
    assert_equal(state(other), state(settings))
    shutil.rmtree(settings.root)
    for build in Builds(other.root).all():
        assert likeness("verify", other, "--build", build).returncode == 0
    facts = run(other)
    assert (facts["ingest"]["new"], facts["extract"]["pending"], facts["index"]["built"]) == (0, 0, 0)
    before = {*source.rglob("*.jpg")}
    (photo,) = {*take(source, "hat", start=4, count=1).rglob("*.jpg")} - before
    write([*rows, ("new-hat", str(photo.relative_to(source)))])
    assert run(other)["load"]["vectors"] == 1


@pytest.mark.slow
def test_a_root_is_not_copied_onto_another(shop):
    settings, _, _ = shop
    with pytest.raises(UsageError, match="holds tables already; name an empty place"):
        jobs.copy_root(settings, settings.root)


@pytest.mark.slow
def test_the_commands_say_what_comes_next(shop, tmp_path):
    settings, _, _ = shop
    done = likeness("copy", settings, str(tmp_path / "copy"))
    assert done.returncode == 0, done.stderr
    assert f"likeness verify --root {tmp_path}/copy" in done.stdout
    product = TableReader(settings).read(LISTINGS, ("product_id",))["product_id"][0].as_py()
    done = likeness("forget", settings, product)
    assert done.returncode == 0, done.stderr
    assert "remove them from the source as well" in done.stdout
