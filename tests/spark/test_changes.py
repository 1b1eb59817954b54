"""What changes between two nights: new photos, known bytes, new categories, withdrawals, and the gates."""

import csv
import os
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from likeness import storage
from likeness.core.errors import GateError, ServiceError, UsageError
from likeness.index.builds import Builds
from likeness.models.backbones import resolve
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.spark import jobs
from likeness.spark.run import Run
from likeness.spark.stages import extract
from likeness.spark.stages.index import publish
from likeness.spark.tables import SparkTables
from likeness.storage.leases import Lease
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS

from .conftest import SAMPLE, last_run, run, take


def _catalogue(folder: Path, *rows: tuple[str, ...], extra: tuple[str, ...] = ()) -> Path:
    with (folder / "catalogue.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("product_id", "image", "category", *extra), *rows])
    return folder


def _photos(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    photos = sorted((SAMPLE / "hat").iterdir())[:count]
    for number, photo in enumerate(photos):
        shutil.copy2(photo, folder / f"{number}.jpg")
    return [f"{number}.jpg" for number in range(count)]


def _active(settings):
    rows = TableReader(settings).read(LISTINGS).to_pylist()
    return sorted((row["product_id"], row["category"]) for row in rows if row["active"])


def _everything(settings):
    """Every product that the build in service can answer with: (product, category, image_id)."""
    builds = Builds(settings.root)
    manifest = builds.find()
    vector = Leaf(builds, manifest).sample_vectors(1)
    query = next(iter(vector.values()))[0]
    answer = Root(manifest, Leaf(builds, manifest)).search(query, manifest.space, SearchParams(1000, "all"))
    hits = [(product, r.category, r.image_id) for r in answer.results for product in r.products]
    assert len({r.image_id for r in answer.results}) == len(answer.results)
    return hits


def test_only_new_photos_are_extracted_and_known_bytes_are_reused(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", "shoes", count=5)
    settings = configure(source)
    run(settings)
    facts = run(configure(take(source, "skirt", count=4)))
    assert (facts["ingest"]["new"], facts["extract"]["extracted"], facts["load"]["vectors"]) == (4, 4, 4)
    for photo in (source / "skirt").iterdir():
        (source / "outwear").mkdir(exist_ok=True)
        shutil.copy(photo, source / "outwear" / f"again-{photo.name}")
    facts = run(configure(source))
    assert (facts["ingest"]["new"], facts["ingest"]["reused"], facts["extract"]["pending"]) == (0, 4, 0)
    assert TableReader(settings).read(IMAGES).num_rows == 14
    hits = _everything(settings)
    assert len(hits) == 18  # 14 images, four of them shown by two products
    assert len({image for *_, image in hits}) == 14


def test_workers_are_at_the_next_chunk_while_one_is_committed(configure, tmp_path, monkeypatch):
    settings = configure(take(tmp_path / "photos", "hat", "shoes", count=4), "extract.chunk_images=3")
    jobs.ingest_job(settings)
    begun, arrow_map, append_files = (
        [threading.Event() for _ in range(3)],
        extract.arrow_map,
        SparkTables.append_files,
    )
    committed = []

    def begin(*arguments):
        next(event for event in begun if not event.is_set()).set()
        return arrow_map(*arguments)

    def commit(*arguments):
        following = begun[min(len(committed) + 1, 2)]
        assert following.wait(60), "the next chunk waited for the commit"
        committed.append(append_files(*arguments))
        return committed[-1]

    monkeypatch.setattr(extract, "arrow_map", begin)
    monkeypatch.setattr(SparkTables, "append_files", commit)
    with Run("extract", settings, ("extract",)) as alone:
        extract.extract(alone)
    assert committed == [3, 3, 2]
    assert TableReader(settings).read(FEATURES).num_rows == 8


def test_a_commit_that_fails_behind_the_workers_fails_the_run(configure, tmp_path, monkeypatch):
    settings = configure(take(tmp_path / "photos", "hat", "shoes", count=4), "extract.chunk_images=3")
    jobs.ingest_job(settings)
    append_files, files = SparkTables.append_files, []

    def commit(*arguments):
        files.append(arguments)
        if len(files) == 1:
            raise ServiceError("the table cannot be written to")
        return append_files(*arguments)

    monkeypatch.setattr(SparkTables, "append_files", commit)
    with pytest.raises(ServiceError, match="cannot be written"), Run("extract", settings, ("extract",)) as alone:
        extract.extract(alone)
    assert len(files) == 1  # what came after it is not committed
    facts = run(settings, jobs.extract_job)
    assert (facts["extract"]["pending"], facts["extract"]["extracted"]) == (8, 8)


def test_a_product_is_recategorised_withdrawn_and_listed_again(configure, tmp_path):
    folder = tmp_path / "shop"
    a, b, c = _photos(folder, 3)
    settings = configure(_catalogue(folder, ("p1", a, "hat"), ("p2", b, "hat"), ("p3", c, "hat"), ("p1", b, "hat")))
    run(settings)
    assert _active(settings) == [("p1", "hat"), ("p1", "hat"), ("p2", "hat"), ("p3", "hat")]
    # moved to another category: no photo is read, none extracted
    run(configure(_catalogue(folder, ("p3", c, "帽子/夏. 2026"))))
    facts = last_run(settings)["facts"]
    assert (facts["ingest"]["read"], facts["extract"]["pending"]) == (0, 0)
    assert _active(settings) == [("p1", "hat"), ("p1", "hat"), ("p2", "hat"), ("p3", "帽子/夏. 2026")]
    assert "帽子/夏. 2026" in Builds(settings.root).find().categories()
    # withdrawn by word; the photo it shared with p1 stays and is answered once
    _catalogue(folder, ("p2", b, "hat", "false"), extra=("active",))
    run(configure(folder, "gates.max_withdraw_rate=0.5"))
    hits = _everything(settings)
    assert sorted({product for product, *_ in hits}) == ["p1", "p3"]
    assert len(hits) == 3
    store = storage.keyed(storage.keyed_uri("", settings.root))
    assert store.get_products(["p1", "p2", "p3"]).keys() == {"p1", "p3"}
    store.close()
    # and back
    facts = run(configure(_catalogue(folder, ("p2", b, "cap"))))
    assert facts["extract"]["pending"] == 0
    assert ("p2", "cap") in _active(settings)


def test_absence_says_nothing_unless_the_source_is_full(configure, tmp_path):
    folder = tmp_path / "shop"
    names = _photos(folder, 4)
    settings = configure(_catalogue(folder, *((f"p{n}", name, "hat") for n, name in enumerate(names))))
    run(settings)
    half = _catalogue(folder, *((f"p{n}", name, "hat") for n, name in enumerate(names[:2])))
    run(configure(half))
    assert len(_active(settings)) == 4
    before = Builds(settings.root).find().build
    with pytest.raises(GateError, match=r"withdraw 2 of 4 .*max_withdraw_rate") as refused:
        run(configure(half, 'source.mode="full"'))
    assert refused.value.exit_code == 3
    assert len(_active(settings)) == 4
    assert Builds(settings.root).find().build == before
    assert last_run(settings)["status"] == "refused"
    run(configure(half, 'source.mode="full"', "gates.max_withdraw_rate=1"))
    assert len(_active(settings)) == 2
    assert {product for product, *_ in _everything(settings)} == {"p0", "p1"}


def test_new_bytes_at_a_known_place_are_a_new_image(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", count=3)
    settings = configure(source)
    run(settings)
    changed = sorted((source / "hat").iterdir())[0]
    old = {image for product, _, image in _everything(settings) if product == f"hat/{changed.name}"}
    shutil.copy(sorted((SAMPLE / "shoes").iterdir())[0], changed)
    facts = run(configure(source))
    assert (facts["ingest"]["new"], facts["extract"]["extracted"]) == (1, 1)
    new = {image for product, _, image in _everything(settings) if product == f"hat/{changed.name}"}
    assert len(new) == 1
    assert new.isdisjoint(old)
    assert len(_everything(settings)) == 3


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_packed_sources_give_the_same_images(configure, tmp_path, kind):
    source = take(tmp_path / "photos", "hat", "shoes")
    photos = {photo.relative_to(source).as_posix(): photo.read_bytes() for photo in source.rglob("*.jpg")}
    packed = tmp_path / f"photos.{kind}"
    if kind == "tar":
        shutil.make_archive(str(tmp_path / "photos"), "tar", source)
    else:
        columns = {"product_id": list(photos), "category": [name.split("/")[0] for name in photos]}
        pq.write_table(pa.table(columns | {"bytes": list(photos.values())}), packed, row_group_size=2)
    settings = configure(packed)
    facts = run(settings)
    assert facts["ingest"]["new"] == 6
    assert set(TableReader(settings).read(IMAGES)["bytes"].to_pylist()) == set(photos.values())
    assert _active(settings) == sorted((name, name.split("/")[0]) for name in photos)
    assert run(settings)["ingest"]["read"] == 0


def test_too_many_failures_stop_before_publishing(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", count=3)
    (source / "hat" / "broken.jpg").write_bytes(b"no photo")
    settings = configure(source)
    with pytest.raises(GateError, match=r"1 of 4 photos failed .*max_failure_rate") as refused:
        run(settings)
    assert refused.value.exit_code == 3
    assert Builds(settings.root).current() is None
    report = Path(settings.root, "reports", "latest.html").read_text()
    assert "refused" in report
    assert "max_failure_rate" in report
    facts = run(configure(source, "gates.max_failure_rate=0.5"))
    assert facts["ingest"]["rejected"] == 1
    assert facts["ingest"]["read"] == 0  # a rejected photo is not read again each night
    assert Builds(settings.root).find().images == 3


def test_a_mended_photo_leaves_the_ledger(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", count=3)
    broken = source / "hat" / "broken.jpg"
    broken.write_bytes(b"no photo")
    settings = configure(source, "gates.max_failure_rate=0.5")
    run(settings)
    (row,) = TableReader(settings).read(FAILURES).to_pylist()
    assert (row["what"], row["reason"], row["attempts"]) == (f"file://{broken}", "not_an_image", 1)
    jobs.retry_failed(settings)
    (row,) = TableReader(settings).read(FAILURES).to_pylist()
    assert row["attempts"] == 2
    shutil.copy(sorted((SAMPLE / "shoes").iterdir())[0], broken)
    run(settings)
    assert TableReader(settings).read(FAILURES).num_rows == 0
    assert Builds(settings.root).find().images == 4


def test_a_photo_that_fails_in_extraction_is_tried_again_on_demand(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", count=3)
    whole = sorted((SAMPLE / "shoes").iterdir())[0].read_bytes()
    (source / "hat" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    settings = configure(source, "gates.max_failure_rate=0.5")
    facts = run(settings)
    assert (facts["extract"]["pending"], facts["extract"]["failed"]) == (4, 1)
    assert facts["index"]["unsearchable"] == 1
    (row,) = TableReader(settings).read(FAILURES).to_pylist()
    assert (row["stage"], row["reason"], row["space"]) == ("extract", "undecodable", resolve(settings.extract.space).id)
    assert run(settings)["extract"]["pending"] == 0
    jobs.retry_failed(settings)
    assert last_run(settings)["facts"]["extract"]["pending"] == 1
    assert TableReader(settings).read(FAILURES)["attempts"].to_pylist() == [2]


def test_low_recall_is_not_published(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", "hat", "shoes"), "index.pack_vectors=1")
    run(settings)
    before = Builds(settings.root).find()
    worst = before.shards[1].model_copy(update={"recall": before.shards[1].recall.model_copy(update={"value": 0.5})})
    candidate = before.model_copy(update={"build": "candidate", "shards": [before.shards[0], worst]})
    with Run("publish", settings, ("index",)) as run_:
        with pytest.raises(GateError, match=r"shard 1 \(shoes\) 0\.500") as refused:
            publish(run_, candidate)
    assert refused.value.exit_code == 3
    assert Builds(settings.root).find().build == before.build


def test_stages_one_by_one_do_what_nightly_does(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", "hat"))
    jobs.ingest_job(settings)
    jobs.extract_job(settings)
    jobs.load_job(settings)
    jobs.index_job(settings)
    assert Builds(settings.root).current() is None
    jobs.publish_job(settings)
    assert Builds(settings.root).find().images == 3
    assert TableReader(settings).read(FEATURES, ("image_id",)).num_rows == 3
    assert run(settings)["index"]["step"] == "unchanged"


def test_two_runs_on_one_root_do_not_mix(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", "hat"))
    with Lease(
        settings.root, "ingest", {"run_id": "the-other", "job": "nightly", "started": "2026-01-01T00:00:00+00:00"}
    ):
        with pytest.raises(ServiceError, match=f"held by run the-other .process {os.getpid()}"):
            run(settings)
    assert run(settings)["ingest"]["new"] == 3


def test_nothing_to_index_is_said(configure, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="nothing to index"):
        run(configure(tmp_path / "empty"))


def test_a_refused_listing_is_refused_again(configure, tmp_path):
    """The short way of an unchanged night must not wave a refused withdrawal through."""
    folder = tmp_path / "shop"
    names = _photos(folder, 4)
    run(configure(_catalogue(folder, *((f"p{n}", name, "hat") for n, name in enumerate(names)))))
    half = configure(_catalogue(folder, ("p0", names[0], "hat")), 'source.mode="full"')
    for _ in range(2):
        with pytest.raises(GateError, match="withdraw 3 of 4"):
            run(half)
