"""A root that version 0.1.0 wrote: it opens, is searched, and takes the next nightly run.

`tests/data/root-0.1.0.tar.gz` holds it as two nights left it: twelve small photos of three categories, nine of the
first night and three of the second, and one damaged; a build of three shards with a delta shard, and the build before
it; the photos themselves; and the answer of that version to one of them. Iceberg's metadata name every file by its
absolute path, so the root was written below a path of 159 characters, which a path of the same length replaces here.
"""

import json
import re
import tarfile
from pathlib import Path

import pytest
from tests.spark.conftest import PROJECT, last_run

import likeness
from likeness.index.builds import Builds
from likeness.spark import jobs
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES, LISTINGS

ARCHIVE = PROJECT / "tests" / "data" / "root-0.1.0.tar.gz"
WRITTEN_AT = f"/tmp/old/{'r' * 150}"
SPACE = "efficientnet_lite0.pool@48a432dd"
FIRST, SECOND, THIRD = "2026-01-02", "2026-01-03", "2026-01-04"


@pytest.fixture
def old_root(tmp_path: Path) -> Path:
    """The root, at a path as long as the one that it was written at."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    padding = len(WRITTEN_AT) - len(str(tmp_path)) - 1
    root = (tmp_path / "root").rename(tmp_path / ("r" * padding))
    for path in (root / "tables").rglob("metadata/*"):
        path.write_bytes(path.read_bytes().replace(WRITTEN_AT.encode(), str(root).encode()))
    return root


def test_an_old_root_is_read_as_it_is(old_root, tmp_path, model_cache):
    """Nothing is written: search, tables and vectors of a root that no run of this version has opened."""
    answer = json.loads((tmp_path / "answer.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in old_root.rglob("*") if path.is_file()}
    with likeness.open(old_root, extract__cache=str(model_cache)) as library:
        assert (library.build.space, library.build.build) == (SPACE, answer["build"])
        result = library.search(tmp_path / "photos" / "hat" / "127708b572ad.jpg", category="all", k=12)
        expected = [(hit["image_id"], hit["product_id"], hit["category"]) for hit in answer["results"]]
        assert [(hit.image_id, hit.product_id, hit.category) for hit in result.results] == expected
        assert [hit.score for hit in result.results] == pytest.approx(
            [hit["score"] for hit in answer["results"]], abs=1e-3
        )
        assert {hit.region for hit in result.results} == {""}
        dates = sorted(map(str, library.tables.read(IMAGES, ("ingest_date",))["ingest_date"].to_pylist()))
        assert dates == [FIRST] * 9 + [SECOND] * 3
        assert len(library.vectors(SPACE).image_ids) == 12
    assert before == {path: path.stat().st_mtime_ns for path in old_root.rglob("*") if path.is_file()}


def test_an_old_root_takes_the_next_nightly_run(old_root, tmp_path, configure):
    photos = tmp_path / "photos"
    old_build = Builds(str(old_root)).current().build
    new = sorted((PROJECT / "deploy" / "sample" / "hat").iterdir())[-1]
    (photos / "hat" / new.name).write_bytes(new.read_bytes())
    with (photos / "catalogue.csv").open("a") as catalogue:
        catalogue.write(f"new,hat/{new.name},hat\n")
    index = ("index.whole_below=0", "index.max_changed=1", "index.pack_vectors=1", "gates.max_failure_rate=1")
    settings = configure(photos, *index, f"date={THIRD}", root=old_root)
    jobs.nightly(settings)

    facts = last_run(settings)["facts"]
    assert (facts["ingest"]["new"], facts["extract"]["extracted"]) == (1, 1), "what is there is not done again"
    tables = TableReader(settings)
    images = tables.read(IMAGES, ("image_id", "ingest_date"))
    assert sorted(map(str, images["ingest_date"].to_pylist())) == [FIRST] * 9 + [SECOND] * 3 + [THIRD]
    vectors = tables.read(FEATURES, ("image_id", "region"), f"space = '{SPACE}'").to_pylist()
    assert sorted(row["image_id"] for row in vectors) == sorted(images["image_id"].to_pylist())
    assert {row["region"] or "" for row in vectors} == {""}
    assert sum(tables.read(LISTINGS, ("active",))["active"].to_pylist()) == 13
    builds = Builds(str(old_root))
    assert builds.chain(SPACE)[1] == f"{SPACE}/{old_build}"
    assert builds.problems(builds.current()) == []
    assert not (old_root / "builds" / "CURRENT").exists()
    with likeness.open(old_root, extract__cache=settings.extract.cache) as library:
        best = library.search(photos / "hat" / new.name, category="all", k=1).results[0]
        assert (best.product_id, round(best.score, 3)) == ("new", 1)
        assert len(library.similar("127708b572ad", category="all", k=20).results) == 12

    jobs.nightly(settings)  # and the night after does nothing
    facts = last_run(settings)["facts"]
    assert (facts["ingest"]["new"], facts["extract"]["extracted"], facts["index"]["built"]) == (0, 0, 0)
    builds.rollback()
    assert builds.current().build == old_build


def test_the_archive_names_no_other_place(old_root):
    for path in old_root.rglob("*.json"):
        assert not re.search(r"file:/+(?!tmp/|private/tmp/|var/)", path.read_text()), path
