"""On the full clothing data (LIKENESS_CLOTHING): what the network is worth, and what a night costs."""

import csv
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.serving.test_leaves import asking, leaves

from likeness.core.settings import load_settings
from likeness.index.builds import Builds
from likeness.serving.encoder import Encoder
from likeness.serving.leaf import Leaf
from likeness.serving.query_terms import PhotoTerm
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES

from .conftest import run

CLOTHING = os.environ.get("LIKENESS_CLOTHING", "")
pytestmark = [pytest.mark.full, pytest.mark.skipif(not CLOTHING, reason="LIKENESS_CLOTHING is not set")]


@pytest.fixture(scope="module")
def settings(tmp_path_factory, model_cache):
    folder = tmp_path_factory.mktemp("clothing")
    for photo in Path(CLOTHING, "train").rglob("*.jpg"):  # file by file: the folders may be read-only
        (folder / "train" / photo.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, folder / "train" / photo.parent.name / photo.name)
    flags = {"root": str(folder / "root"), "source.uri": str(folder / "train"), "date": "2026-01-02"}
    return load_settings(None, flags, (f"extract.cache={model_cache}",))


@pytest.fixture(scope="module")
def first(settings):
    return run(settings)


def _validation() -> list[dict[str, str]]:
    with Path(CLOTHING, "catalogue.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "validation"]


def test_neighbours_are_of_the_same_category(settings, first):
    assert first["extract"]["extracted"] == 3068
    builds = Builds(settings.root)
    manifest = builds.find()
    root, encoder = Root(manifest, Leaf(builds, manifest)), Encoder(settings, manifest.space)
    hits = []
    for row in _validation():
        vector = encoder.encode(Path(CLOTHING, row["image"]).read_bytes())
        neighbours = root.search(vector, manifest.space, SearchParams(5, "all")).results
        hits.append([result.category == row["category"] for result in neighbours])
    assert len(hits) == 341
    assert sum(row[0] for row in hits) / len(hits) >= 0.79
    assert sum(sum(row) for row in hits) / len(hits) / 5 >= 0.74


def test_the_service_answers_300_photos_as_the_batch_search_does(settings, first):
    """In leaves of their own, against the vectors of the features table; near ties may change places."""
    builds = Builds(settings.root)
    manifest = builds.find()
    root = Root(manifest, Leaf(builds, manifest))
    rows = TableReader(settings).read(FEATURES, ("image_id", "vector"))
    vectors = {k: np.asarray(v.values) for k, v in zip(rows["image_id"].to_pylist(), rows["vector"], strict=True)}
    photos = [path.read_bytes() for path in sorted(Path(settings.source.uri).rglob("*.jpg"))[:3068:10]][:300]
    assert len(photos) == 300
    with leaves(settings, 2) as processes, asking(settings, processes, replicas=2) as service:
        for photo in photos:
            params = SearchParams(10, "all", min_coverage=1)
            served = service.search(PhotoTerm([photo]), params).results
            batch = root.search(vectors[hashlib.sha256(photo).hexdigest()], manifest.space, params).results
            assert [hit.score for hit in served] == pytest.approx([hit.score for hit in batch], abs=1e-4)
            clear = [{h.image_id for h in hits if h.score > batch[-1].score + 2e-4} for hits in (served, batch)]
            assert clear[0] == clear[1]


def test_fifty_new_photos_among_3068_cost_fifty_extractions(settings, first):
    fresh = _validation()[:50]
    source = Path(settings.source.uri)
    for row in fresh:
        shutil.copyfile(Path(CLOTHING, row["image"]), source / row["category"] / Path(row["image"]).name)
    facts = run(settings)
    assert (facts["ingest"]["read"], facts["ingest"]["new"], facts["extract"]["extracted"]) == (50, 50, 50)
    assert facts["load"]["vectors"] == 50
    for row in fresh:
        shutil.copyfile(Path(CLOTHING, row["image"]), source / row["category"] / f"again-{Path(row['image']).name}")
    facts = run(settings)
    assert (facts["ingest"]["new"], facts["ingest"]["reused"], facts["extract"]["pending"]) == (0, 50, 0)
    manifest = Builds(settings.root).find()
    assert (manifest.images, manifest.products) == (3118, 3168)
