"""Two feature spaces in service side by side: each has its builds, and answers name the space of their scores."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

import likeness
from likeness import storage
from likeness.core.errors import SpaceMismatch, UsageError
from likeness.core.settings import Index, Settings
from likeness.index.build import BuildSpec, build_shard
from likeness.index.builds import Builds
from likeness.index.ids import digest
from likeness.index.manifest import Manifest
from likeness.index.shard_plan import PlannedShard
from likeness.models.backbones import resolve
from likeness.serving.encoder import Encoder
from likeness.serving.http.app import create_app
from likeness.serving.loaded_build import UnknownSpaceError
from likeness.serving.query_terms import PhotoTerm, ProductTerm, VectorTerm
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service
from likeness.storage.items import Item
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS

HOG = "hog.cells"


def add_build(settings: Settings, name: str) -> Manifest:
    """Publishes a build of all listed photos in the space of HOG, made without Spark; one shard for all categories."""
    space, tables, builds = resolve(HOG), TableReader(settings), Builds.open(settings)
    encoder = Encoder(settings, space.id)
    listed: dict[str, list[dict[str, object]]] = {}
    for row in tables.read(LISTINGS, ("image_id", "product_id", "category", "uri")).to_pylist():
        entry = {"category": row["category"], "uri": row["uri"], "products": [row["product_id"]]}
        listed.setdefault(row["image_id"], []).append(entry)
    photos = tables.photos(list(listed))
    ids = sorted(listed, key=lambda image_id: digest(image_id, ""))
    vectors = {image_id: encoder.encode(photos[image_id])[0] for image_id in ids}
    batch = pa.RecordBatch.from_pydict(
        {
            "image_id": ids,
            "shown": [listed[image_id] for image_id in ids],
            "vector": [vectors[image_id].astype("<f4").tobytes() for image_id in ids],
        }
    )
    categories = tuple(sorted({str(entry["category"]) for entries in listed.values() for entry in entries}))
    spec = BuildSpec(f"{builds.folder}/{space.id}", name, space.id, space.dim, Index(kind="flat"))
    manifest = Manifest(
        build=name,
        run_id=name,
        created="",
        space=space.id,
        dim=space.dim,
        kind="flat",
        metric="cosine",
        snapshots={},
        index_settings={},
        images=len(ids),
        products=len({row for entries in listed.values() for entry in entries for row in entry["products"]}),
        vectors=len(ids),
        shards=[build_shard(PlannedShard(0, categories), [batch], spec)],
    )
    builds.write(manifest)
    store = storage.keyed(storage.keyed_uri(settings.keyed.uri, settings.root))
    store.put_vectors(space.id, ((Item(image_id), vector) for image_id, vector in vectors.items()))
    store.close()
    builds.publish(manifest, 5)
    return manifest


@pytest.fixture(scope="module")
def two_spaces(published: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A copy of the published root, with a build of a second space; the first one is the default."""
    root = tmp_path_factory.mktemp("spaces") / "root"
    shutil.copytree(published.root, root)
    first = Builds.open(published).find().space
    settings = published.model_copy(update={"root": str(root), "spaces": (first, HOG)})
    add_build(settings, "20260103-first")
    return settings


@pytest.fixture(scope="module")
def both(two_spaces: Settings) -> Iterator[Service]:
    service = Service(two_spaces)
    service.start()
    yield service
    service.stop()


def until(true: Callable[[], bool], within_s: float = 30) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_each_space_answers(both: Service, published: Settings, photo: bytes) -> None:
    first, second = (loaded.manifest for loaded in both.builds.in_service())
    assert second.space.startswith(HOG)
    for space, manifest in (("", first), (first.space, first), (second.space, second), (HOG, second)):
        answer = both.search(PhotoTerm([photo]), SearchParams(5, "all", space=space))
        assert (answer.space, answer.build) == (manifest.space, manifest.build)
        assert {(one.space, one.build) for one in answer.results} == {(manifest.space, manifest.build)}
        assert answer.results[0].score == pytest.approx(1, abs=1e-4)
        assert both.catalogue(3, space).build == manifest.build
        product = answer.results[0].product_id
        similar = both.search(ProductTerm(product), SearchParams(5, "all", space=space))
        assert similar.space == manifest.space
        assert product not in [one.product_id for one in similar.results]
        rows = np.ones((1, manifest.dim), np.float32)
        assert both.search(VectorTerm(rows, manifest.space), SearchParams()).space == manifest.space
        assert both.thumbnail(answer.results[0].image_id, 64)


def test_an_unknown_space_is_refused_with_those_in_service(both: Service, photo: bytes) -> None:
    names = [loaded.manifest.space for loaded in both.builds.in_service()]
    with pytest.raises(UnknownSpaceError, match="alexnet") as caught:
        both.search(PhotoTerm([photo]), SearchParams(space="alexnet.fc6"))
    assert all(name in str(caught.value) for name in names)
    with pytest.raises(SpaceMismatch, match="hog"):
        both.search(VectorTerm(np.ones((1, 4), np.float32), "alexnet.fc6@00000000"), SearchParams())
    with TestClient(create_app(both)) as client:
        refused = client.post("/v1/search", files={"image": photo}, data={"space": "alexnet.fc6"})
        assert (refused.status_code, refused.json()["code"]) == (404, "unknown")
        answer = client.post("/v1/search", files={"image": photo}, data={"space": HOG, "k": 2}).json()
        assert {one["space"] for one in answer["results"]} == {answer["space"]} == {names[1]}
        catalogue = client.get("/v1/catalogue", params={"space": HOG}).json()
        assert (catalogue["space"], catalogue["images"]) == (names[1], 163)
        assert client.get("/v1/catalogue").json()["space"] == names[0]
        assert len(client.get("/readyz").json()["builds"]) == 2


def test_a_swap_of_one_space_leaves_the_others_alone(both: Service, two_spaces: Settings) -> None:
    first, second = both.builds.in_service()
    manifest = add_build(two_spaces, "20260104-second")
    until(lambda: both.builds.loaded(HOG).manifest.build == manifest.build)
    assert both.builds.loaded() is first
    assert both.builds.loaded(HOG).encoder is second.encoder
    old = both.builds.loaded(HOG, second.manifest.build)
    assert old.manifest.path == second.manifest.path
    assert both.builds.loaded("", second.manifest.build) is old
    with pytest.raises(UsageError, match="20260103-first"):
        both.builds.loaded(first.manifest.space, "20260103-first")


def test_a_library_searches_any_published_space(both: Service, two_spaces: Settings, photo: bytes) -> None:
    with likeness.open(two_spaces.root, extract__cache=two_spaces.extract.cache, spaces=two_spaces.spaces) as library:
        for space in ("", HOG):
            answer = library.search(photo, k=4, space=space)
            served = both.search(PhotoTerm([photo]), SearchParams(4, space=space))
            assert [one.image_id for one in answer.results] == [one.image_id for one in served.results]
            assert answer.space == served.space
        assert library.build.space == two_spaces.spaces[0]
        with pytest.raises(UnknownSpaceError, match="in service: efficientnet"):
            library.search(photo, space="alexnet.fc6")


def test_leaves_serve_several_spaces(two_spaces: Settings, both: Service, photo: bytes, tmp_path: Path) -> None:
    from .test_leaves import asking, leaves

    with leaves(two_spaces, 2) as processes, asking(two_spaces, processes) as remote:
        for space in ("", HOG):
            params = SearchParams(7, "all", space=space)
            answer, expected = (one.search(PhotoTerm([photo]), params) for one in (remote, both))
            assert answer.model_dump(exclude={"took_ms"}) == expected.model_dump(exclude={"took_ms"})
