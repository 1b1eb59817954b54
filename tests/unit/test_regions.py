"""Regions of photos as items of an index, and builds of the version before them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.hits import hits_of

from likeness.core.errors import DataError
from likeness.core.settings import Index
from likeness.index import distance
from likeness.index.build import BuildSpec, build_shard
from likeness.index.builds import Builds
from likeness.index.ids import IDS, digest, faiss_id
from likeness.index.manifest import Manifest, Shard
from likeness.index.shard import Hit, LoadedShard, merge
from likeness.index.shard_plan import PlannedShard
from likeness.serving.leaf import Leaf, LeafQuery
from likeness.storage.items import Item

SPACE, DIM, IMAGES = "alexnet.fc6@1f3a9c02", 16, 120


def image_ids(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


class Catalogue:
    """Photos, each with up to nine regions, and a vector of each."""

    def __init__(self, seed: int, images: int = IMAGES) -> None:
        rng = np.random.default_rng(seed)
        items = [
            Item(image_id, region)
            for image_id in image_ids(images)
            for region in ["", *(f"box-{number}" for number in range(rng.integers(0, 10)))]
        ]
        self.items = sorted(items, key=lambda item: digest(*item))
        self.vectors = rng.standard_normal((len(items), DIM)).astype(np.float32)

    def rows(self, category: str, chosen: np.ndarray | None = None) -> pa.Table:
        """The items as the index stage streams them."""
        numbers = np.arange(len(self.items)) if chosen is None else chosen
        return pa.table(
            {
                "image_id": [self.items[number].image_id for number in numbers],
                "region": [self.items[number].region for number in numbers],
                "shown": [
                    [{"category": category, "uri": self.items[number].image_id[:8], "products": [category]}]
                    for number in numbers
                ],
                "vector": [self.vectors[number].tobytes() for number in numbers],
            }
        )

    def nearest(self, query: np.ndarray, k: int) -> list[tuple[str, str]]:
        """The k nearest images with the region that is nearest."""
        best: dict[str, str] = {}
        for number in np.argsort(-(distance.prepared(self.vectors, "cosine") @ query)):
            best.setdefault(*self.items[number])
        return list(best.items())[:k]


def build(folder: Path, rows: pa.Table, number: int = 0, kind: str = "flat") -> Shard:
    spec = BuildSpec(f"file://{folder}", "b1", SPACE, DIM, Index(kind=kind))
    return build_shard(PlannedShard(number, ("hat",)), rows.to_batches(50), spec)


def publish(root: Path, shards: list[Shard]) -> tuple[Builds, Manifest]:
    builds = Builds(str(root))
    manifest = Manifest(
        build="b1",
        run_id="b1",
        created="2026-01-02T00:00:00+00:00",
        space=SPACE,
        dim=DIM,
        kind="flat",
        metric="cosine",
        snapshots={"listings": 1, "features": 2},
        index_settings={"kind": "flat"},
        images=IMAGES,
        products=1,
        vectors=sum(shard.live for shard in shards),
        shards=shards,
    )
    builds.write(manifest)
    builds.publish(manifest, 5)
    return builds, manifest


def test_ids_of_regions_are_of_both_and_those_of_whole_photos_of_the_image() -> None:
    (image_id,) = image_ids(1)
    assert faiss_id(image_id) == int(image_id[:16], 16) >> 1
    both = hashlib.sha256(f"{image_id}/box-1".encode()).digest()
    assert faiss_id(image_id, "box-1") == int.from_bytes(both[:8], "big") >> 1


@pytest.mark.parametrize("kind", ["flat", "hnsw", "hamming"])
def test_an_image_is_answered_once_with_the_region_that_matched_best(tmp_path: Path, kind: str) -> None:
    catalogue = Catalogue(1)
    record = build(tmp_path, catalogue.rows("hat"), kind=kind)
    assert (record.vectors, record.regions) == (len(catalogue.items), len(catalogue.items) - IMAGES)
    shard = LoadedShard(record, tmp_path, "cosine")
    queries = distance.prepared(np.random.default_rng(2).standard_normal((20, DIM), np.float32), "cosine")
    for k in (1, 10, IMAGES, IMAGES + 5):
        for query, hits in zip(queries, hits_of(shard, queries, k), strict=True):
            assert len({hit.image_id for hit in hits}) == len(hits) == min(k, IMAGES)
            if kind == "flat":
                assert [(hit.image_id, hit.region) for hit in hits] == catalogue.nearest(query, k)


def test_an_image_is_looked_up_whatever_its_regions_and_tombstones(tmp_path: Path) -> None:
    catalogue = Catalogue(3, 30)
    boxes = np.array([number for number, item in enumerate(catalogue.items) if item.region])
    record = build(tmp_path, catalogue.rows("hat", boxes))
    first = catalogue.items[boxes[0]].image_id
    ids = np.sort([faiss_id(*catalogue.items[number]) for number in boxes if catalogue.items[number].image_id == first])
    update = {"tombstoned": len(ids), "categories": {"hat": record.vectors - len(ids)}}
    whole = LoadedShard(record, tmp_path, "cosine")
    without = LoadedShard(record.model_copy(update=update), tmp_path, "cosine", ids)
    for image_id in image_ids(30):
        listed = any(catalogue.items[number].image_id == image_id for number in boxes)
        hit = whole.lookup(image_id)
        assert (hit is not None) == listed
        assert hit is None or hit.image_id == image_id
        assert (without.lookup(image_id) is not None) == (listed and image_id != first)
    names = [hit.image_id for hit in without.sample_hits(30)]
    assert len(names) == len(set(names))
    assert first not in names


def test_a_leaf_finds_k_images_over_shards_that_share_some(tmp_path: Path) -> None:
    catalogue = Catalogue(4)
    places = np.random.default_rng(5).integers(0, 3, len(catalogue.items))
    folder = tmp_path / "builds" / SPACE
    shards = [build(folder, catalogue.rows("hat", np.flatnonzero(places == number)), number) for number in range(3)]
    leaf = Leaf(*publish(tmp_path, shards))
    queries = np.random.default_rng(6).standard_normal((10, DIM)).astype(np.float32)
    for k in (1, 7, IMAGES):
        for query, hits in zip(queries, leaf.search(LeafQuery(queries, k, SPACE)).hits, strict=True):
            assert [(hit.image_id, hit.region) for hit in hits] == catalogue.nearest(query, k)


def test_the_merge_keeps_the_best_region_and_all_products() -> None:
    hits = [Hit(0.5, "a", "c", "u", ("p1",)), Hit(0.7, "a", "c", "u", ("p2",), "box"), Hit(0.6, "b", "c", "u", ("p",))]
    first, second = merge([hits], 5)
    assert (first.image_id, first.region, first.score, first.products) == ("a", "box", 0.7, ("p1", "p2"))
    assert second.region == ""


def test_regions_out_of_order_or_twice_are_refused(tmp_path: Path) -> None:
    catalogue = Catalogue(7, 5)
    box = next(number for number, item in enumerate(catalogue.items) if item.region)
    with pytest.raises(DataError, match=f"{catalogue.items[box].key} and .* share the id"):
        build(tmp_path, catalogue.rows("hat", np.array([box, box])))


# -- builds of the version before

FORMAT_2 = """{
  "format": 2, "build": "b1", "run_id": "b1", "created": "2026-01-02T00:00:00+00:00",
  "space": "alexnet.fc6@1f3a9c02", "dim": 16, "kind": "auto", "metric": "cosine",
  "snapshots": {"listings": 1, "features": 2}, "index_settings": {"kind": "auto", "recall": 0.99},
  "images": 3, "products": 2, "vectors": 2,
  "shards": [{
    "number": 0, "part": 0, "parts": 1, "delta": false, "categories": {"hat": 2}, "vectors": 3, "removed": 1,
    "recall": {"k": 10, "queries": 64, "value": 1.0}, "filtered": {"0.5": 0.98},
    "index": {"name": "b1/shard-00000.faiss", "bytes": 1, "sha256": "00"},
    "ids": {"name": "b1/shard-00000.arrow", "bytes": 2, "sha256": "11"},
    "kind": "hnsw", "knob": {"ef_search": 16, "refine": 2},
    "curve": [{"kind": "hnsw", "knob": {"ef_search": 16, "refine": 2}, "recall": 0.995, "ms": 0.1}]
  }],
  "removed": {"name": "b1/removed.arrow", "bytes": 3, "sha256": "22"}
}"""


def test_a_manifest_of_format_2_is_read(tmp_path: Path) -> None:
    manifest = Manifest.model_validate_json(FORMAT_2)
    (shard,) = manifest.shards
    assert (manifest.format, shard.tombstoned, shard.live, shard.regions, manifest.regions) == (3, 1, 2, 0, 0)
    assert shard.index_params == shard.curve[0].index_params == {"ef_search": 16, "refine": 2}
    assert [file.name for file in manifest.files] == [
        "b1/shard-00000.faiss",
        "b1/shard-00000.arrow",
        "b1/removed.arrow",
    ]
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@pytest.mark.parametrize("damage", ["shards", "knob", "curve"])
def test_a_damaged_manifest_of_format_2_is_refused(damage: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Manifest.model_validate_json(FORMAT_2.replace(f'"{damage}"', '"other"'))


def test_a_build_of_format_2_is_searched(tmp_path: Path) -> None:
    """Its id map has no regions."""
    catalogue = Catalogue(8, 40)
    whole = np.array([number for number, item in enumerate(catalogue.items) if not item.region])
    folder = tmp_path / "builds" / SPACE
    builds, manifest = publish(tmp_path, [build(folder, catalogue.rows("hat", whole))])
    query = LeafQuery(catalogue.vectors[:5], 10, SPACE)
    expected = Leaf(builds, manifest).search(query).hits
    path = folder / manifest.shards[0].ids.name
    ids = pa.ipc.open_file(path).read_all().drop_columns(["region"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, ids.schema) as writer:
        writer.write_table(ids)
    fields = json.loads(manifest.model_dump_json())
    fields |= {"format": 2, "removed": fields.pop("tombstones")}
    for shard in fields["shards"]:
        del shard["regions"]
        shard |= {"knob": shard.pop("index_params"), "removed": shard.pop("tombstoned")}
    (folder / "b1" / "manifest.json").write_text(json.dumps(fields))
    assert ids.schema.names == [name for name in IDS.names if name != "region"]
    assert builds.read(manifest.path) == manifest
    assert Leaf(builds, builds.find()).search(query).hits == expected
