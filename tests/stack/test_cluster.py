"""The nightly run on HDFS, YARN and HBase gives what the embedded default gives, with 4096-d vectors.

On YARN its queries are planned and compiled as users' are; those of the other tests are not (see tests/jvm.py).
"""

import tarfile
from typing import Any

import numpy as np
import pytest
from tests.bench.photos import variants
from tests.runs import PROJECT

from likeness import storage
from likeness.core import uris
from likeness.core.settings import load_settings
from likeness.index.builds import Builds
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.storage.items import Item
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES, LISTINGS

from .places import QUICK, Place

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]
PHOTOS = 48
AS_USERS = ("--master", "yarn", *QUICK)


@pytest.fixture(scope="module")
def sites(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """The same photos indexed on this machine and on the stack."""
    import torch
    import torchvision

    folder = tmp_path_factory.mktemp("cluster")
    with torch.random.fork_rng():
        torch.manual_seed(20260102)
        torch.save(torchvision.models.alexnet(weights=None).state_dict(), folder / "alexnet.pth")
    photos = variants(PROJECT / "deploy" / "sample", folder / "photos", PHOTOS)
    with tarfile.open(folder / "photos.tar", "w") as tar:
        tar.add(photos, ".")
    for name in ("photos.tar", "alexnet.pth"):
        storage.files(stack.hdfs).upload(str(folder / name), f"{stack.hdfs}/{name}")
    sites = {}
    for site, base, keyed, options in (
        ("embedded", str(folder), "", ()),
        ("cluster", stack.hdfs, f"{stack.hbase}/nightly", AS_USERS),
    ):
        flags = {
            "--source": f"{base}/photos.tar",
            "--root": f"{base}/root",
            "--space": "alexnet.fc6",
            "--date": "2026-01-02",
        }
        assignments = [f"extract.weights={base}/alexnet.pth", f"extract.cache={folder}/cache", f"keyed.uri={keyed}"]
        words = [word for pair in flags.items() for word in pair] + [w for a in assignments for w in ("--set", a)]
        keys = {"source.uri": flags["--source"], "root": flags["--root"], "extract.space": "alexnet.fc6"}
        sites[site] = Place(load_settings(None, keys, assignments), words)
        with sites[site].start("nightly", options) as job:
            assert job.code() == 0, job.output
        assert f"{PHOTOS} extracted, 0 failed" in job.output
    return sites


def vectors(site: Place) -> dict[str, np.ndarray]:
    rows = TableReader(site.settings).read(FEATURES, ("image_id", "vector"))
    return {k: np.asarray(v.values) for k, v in zip(rows["image_id"].to_pylist(), rows["vector"], strict=True)}


def test_the_tables_are_equal(sites: dict[str, Place]) -> None:
    for table, columns in (
        (IMAGES, ("image_id", "bytes", "format", "width", "height", "ingest_date")),
        (LISTINGS, ("product_id", "image_id", "category", "attributes", "active")),
    ):
        rows = [TableReader(site.settings).read(table, columns) for site in sites.values()]
        one, other = (part.sort_by([(name, "ascending") for name in columns if name != "bytes"]) for part in rows)
        assert one.num_rows == PHOTOS
        assert one.equals(other)


def test_the_vectors_are_equal(sites: dict[str, Place]) -> None:
    one, other = (vectors(site) for site in sites.values())
    assert one.keys() == other.keys()
    assert len(one) == PHOTOS
    for key, vector in one.items():
        assert vector.shape == (4096,)
        cosine = vector @ other[key] / (np.linalg.norm(vector) * np.linalg.norm(other[key]))
        assert cosine >= 0.9999


def test_the_neighbours_are_equal(sites: dict[str, Place]) -> None:
    """Seeded noise has near ties: a neighbour may differ where its score is that of the other to 1e-5."""
    queries = list(vectors(sites["embedded"]).values())[::4]
    answers = []
    for site in sites.values():
        builds = Builds(site.settings.root, site.settings.extract.cache)
        manifest = builds.find()
        root = Root(manifest, Leaf(builds, manifest))
        answers.append([root.search(query, manifest.space, SearchParams(10, "all")).results for query in queries])
    for one, other in zip(*answers, strict=True):
        for left, right in zip(one, other, strict=True):
            assert left.score == pytest.approx(right.score, abs=1e-5)
        kth = one[-1].score
        clear = [{hit.image_id for hit in hits if hit.score > kth + 2e-5} for hits in (one, other)]
        assert clear[0] == clear[1]


def test_every_row_is_in_hbase(sites: dict[str, Place]) -> None:
    site = sites["cluster"]
    store = storage.keyed(site.settings.keyed.uri)
    stored = {item.key: vector for item, vector in store.scan_vectors(Builds(site.settings.root).find().space)}
    store.close()
    here = vectors(site)
    assert stored.keys() == here.keys()
    assert all(stored[key].tobytes() == here[key].tobytes() for key in here)


def test_verify_names_what_was_altered_by_hand_and_load_mends_it(sites: dict[str, Place]) -> None:
    site = sites["cluster"]
    space = Builds(site.settings.root).find().space
    assert site.likeness("verify")[0] == 0
    stale, missing, surplus = *sorted(vectors(site))[:2], "f" * 64
    store = storage.keyed(site.settings.keyed.uri)
    store.put_vectors(space, [(Item(stale), np.zeros(4096)), (Item(surplus), np.ones(4096))])
    store.delete_vectors(space, [Item(missing)])
    store.close()
    code, output = site.likeness("verify")
    assert code == 1
    for kind, key in (("stale", stale), ("missing", missing), ("surplus", surplus)):
        assert f"1 {kind} against features: {key}" in output
    with site.start("load", flags=["--set", "keyed.reload=true"]) as job:
        assert job.code() == 0, job.output
    code, output = site.likeness("verify")
    assert code == 0, output


def test_a_gate_in_cluster_mode_is_exit_code_3(sites: dict[str, Place], stack: Any) -> None:
    site, photo = sites["cluster"], min((PROJECT / "deploy" / "sample" / "hat").iterdir())
    few = uris.join(stack.hdfs, "few")
    storage.files(few).upload(str(photo), uris.join(few, "hat", photo.name))
    options = (*AS_USERS, "--num-executors", "1", "--deploy-mode", "cluster")
    with site.start("nightly", options, ["--source", few, "--source-mode", "full"]) as job:
        assert job.code() == 3, job.output
    assert "gates.max_withdraw_rate" in job.output
