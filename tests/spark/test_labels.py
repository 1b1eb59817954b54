"""Labels: what a network takes the catalogue's photos for; and how often a network is loaded."""

import os

import numpy as np
import pytest

from likeness.core.errors import UsageError
from likeness.models.imagenet_classifier import ImagenetClassifier
from likeness.spark import jobs
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES, LABELS, LISTINGS

from .conftest import run, take


def test_every_photo_is_labelled_once(configure, tmp_path, capsys):
    source = take(tmp_path / "photos", "shoes", "pants", count=3)
    settings = configure(source)
    jobs.ingest_job(settings)
    assert run(settings, jobs.label_job)["label"]["labelled"] == 6
    warehouse = TableReader(settings)
    rows = {row["image_id"]: row for row in warehouse.read(LABELS).to_pylist()}
    photos = dict(zip(*(warehouse.read(IMAGES)[name].to_pylist() for name in ("image_id", "bytes")), strict=True))
    assert rows.keys() == photos.keys()
    classifier = ImagenetClassifier(settings, "efficientnet_lite0")
    for image_id, row in rows.items():
        labels = classifier.labels(photos[image_id])
        assert row["space"] == classifier.space.id
        assert row["labels"] == [one.name for one in labels]
        assert np.allclose(row["probabilities"], [one.probability for one in labels], atol=1e-3)
    assert "6 photos labelled" in capsys.readouterr().out

    take(tmp_path / "photos", "shoes", start=3, count=1)
    jobs.ingest_job(settings)
    facts = run(settings, jobs.label_job)
    assert (facts["extract"]["pending"], facts["label"]["labelled"]) == (1, 1)
    assert sum(facts["label"]["labels"].values()) == 7
    assert run(settings, jobs.label_job)["label"]["labelled"] == 0


def test_a_network_without_classes_labels_nothing(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", "shoes"), "extract.space=hog.blocks")
    with pytest.raises(UsageError, match=r"hog.*there are: .*efficientnet_lite0"):
        jobs.label_job(settings)


def test_forgotten_products_lose_their_labels(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", "shoes", "pants", count=2))
    run(settings)
    run(settings, jobs.label_job)
    product = min(TableReader(settings).read(LISTINGS, ("product_id",))["product_id"].to_pylist())
    jobs.forget_products(settings, [product])
    left = set(TableReader(settings).read(LABELS)["image_id"].to_pylist())
    assert left == set(TableReader(settings).read(IMAGES)["image_id"].to_pylist())
    assert len(left) == 3


def test_a_worker_loads_its_network_once(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", count=4), "extract.batch_size=5", "extract.chunk_images=8")
    facts = run(settings, lambda settings: [jobs.ingest_job(settings), jobs.extract_job(settings)])["extract"]
    tasks = len(TableReader(settings).parts(FEATURES))
    assert facts["extracted"] == 40
    assert tasks > 2 * facts["workers"]
    assert facts["networks"] == facts["workers"] <= (os.cpu_count() or 1)
