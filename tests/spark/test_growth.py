"""The index as it grows night by night, against a brute-force model of what the tables say."""

import datetime
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest

from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.spark.run import Run
from likeness.spark.stages.compact import compact, gc
from likeness.spark.stages.index import index, publish
from likeness.storage.items import Item
from likeness.storage.tables import FEATURES, LISTINGS

CATEGORIES = ("hat", "裤子/2.0", "shoes", "tiny")
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
LIMITS = ("index.whole_below=0", "index.max_changed=0.5", "index.max_deltas=2", "index.pack_vectors=6")


class Shop:
    """A model of the tables, kept beside them: listings by (product, image), vectors by (image, region)."""

    def __init__(self, settings: Settings, seed: int, regions: int = 0) -> None:
        self.settings, self.regions, self.rng = settings, regions, np.random.default_rng(seed)
        self.listings: dict[tuple[str, str], tuple[str, bool]] = {}
        self.vectors: dict[Item, np.ndarray] = {}
        self.steps: list[str] = []

    def change(self, kind: str, count: int) -> None:
        """Changes some listings in the model alone."""
        keys = sorted(self.listings)
        for _ in range(count):
            if kind == "add" or not keys:
                image = hashlib.sha256(self.rng.bytes(8)).hexdigest()
                for region in ["", *(f"box-{number}" for number in range(self.regions))]:
                    self.vectors[Item(image, region)] = self.rng.standard_normal(1280, np.float32)
                for _ in range(self.rng.integers(1, 3)):
                    self.listings[f"p{self.rng.integers(40)}", image] = (self._category(), True)
                continue
            product, image = keys[self.rng.integers(len(keys))]
            category, active = self.listings[product, image]
            if kind == "share":
                self.listings[f"p{self.rng.integers(40)}", image] = (self._category(), True)
            else:
                moved = self._category() if kind == "recategorise" else category
                self.listings[product, image] = (moved, {"delete": False, "re-add": True}.get(kind, active))

    def night(self, pins: Literal["respect", "remove"] = "respect") -> None:
        """Writes the model into the tables, indexes and publishes, unless a pin keeps it from that."""
        rows = [
            {"product_id": product, "image_id": image, "uri": f"file:///{image[:8]}.jpg", "category": category}
            | {"attributes": "{}", "active": active, "since": NOW}
            for (product, image), (category, active) in sorted(self.listings.items())
        ]
        with Run("index", self.settings, ("index",)) as run:
            space, tables = run.space.id, run.tables
            here = {Item(*row) for row in tables.read(FEATURES).select("image_id", "region").collect()}
            vectors = [
                {"image_id": item.image_id, "space": space, "ingest_date": NOW.date(), "vector": vector.tolist()}
                | {"norm": 1.0, "region": item.region}
                for item, vector in self.vectors.items()
                if item not in here
            ]
            tables.upsert(LISTINGS, tables.rows(LISTINGS, rows))
            if vectors:
                tables.append(FEATURES, tables.rows(FEATURES, vectors))
            built = index(run)
            assert built
            publish(run, built, pins)
            self.steps.append(run.facts.index.step)

    def check(self) -> None:
        """Every category's answers, and those of all, are those of a scan over the active listings."""
        builds = Builds(self.settings.root)
        manifest = builds.find()
        assert builds.problems(manifest) == []
        root = Root(manifest, Leaf(builds, manifest))
        active: dict[tuple[str, str], list[str]] = {}
        for (product, image), (category, is_active) in self.listings.items():
            if is_active:
                active.setdefault((category, image), []).append(product)
        counts = Counter(category for category, _ in active)
        assert manifest.categories() == {name: counts[name] * (1 + self.regions) for name in sorted(counts)}
        assert manifest.images == len({image for _, image in active})
        for searched in ("all", *manifest.categories()):
            members: dict[str, set[str]] = {}
            for (category, image), products in active.items():
                if searched in ("all", category):
                    members.setdefault(image, set()).update(products)
            self._compare(root, searched, members)

    def _compare(self, root: Root, searched: str, members: dict[str, set[str]]) -> None:
        items = [item for item in self.vectors if item.image_id in members]
        matrix = np.stack([self.vectors[item] for item in items]).astype(np.float64)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        for k in (5, len(members) + 3):
            query = self.rng.standard_normal(1280, np.float32)
            scores = matrix @ (query / np.linalg.norm(query))
            best: dict[str, float] = {}
            for row in np.argsort(-scores):
                best.setdefault(items[row].image_id, scores[row])
            images = list(best)[:k]
            answer = root.search(query, root_space(root), SearchParams(k, searched))
            assert [result.image_id for result in answer.results] == images
            assert [result.score for result in answer.results] == pytest.approx([best[key] for key in images], abs=1e-5)
            assert [set(result.products) for result in answer.results] == [members[key] for key in images]
            assert answer.coverage.searched >= len(items)

    def _category(self) -> str:
        return str(self.rng.choice(CATEGORIES, p=[0.5, 0.3, 0.15, 0.05]))


def root_space(root: Root) -> str:
    return root.manifest.space


NIGHTS = ("add", "delete", "re-add", "recategorise", "share")


@pytest.mark.parametrize(("seed", "nights"), [(1, 2), pytest.param(2, 7, marks=pytest.mark.slow)])
def test_any_sequence_of_nights_is_as_the_model(configure: Any, tmp_path: Path, seed: int, nights: int) -> None:
    settings = configure(tmp_path, *LIMITS, "index.max_shard_vectors=25")
    shop = Shop(settings, seed)
    shop.change("add", 60)
    shop.night()
    shop.check()
    builds = Builds(settings.root)
    for number in range(nights):
        for kind in shop.rng.choice(NIGHTS, 2):
            shop.change(str(kind), int(shop.rng.integers(1, 5)))
        if number == 1:
            with Run("compact", settings, ("index",)) as run:
                compact(run)
        if number in (2, 6):
            builds.rollback()
        shop.night("remove")
        shop.check()
    assert {"whole", "delta", *(["merge"] if nights >= 7 else [])} <= set(shop.steps)


def test_nights_that_are_not_published_extend_the_build_in_service(configure: Any, tmp_path: Path) -> None:
    settings = configure(tmp_path, *LIMITS)
    shop, builds = Shop(settings, 5), Builds(settings.root)
    shop.change("add", 40)
    shop.night()
    first = builds.find()
    shop.change("add", 2)
    shop.night()
    builds.rollback()
    for kind in ("delete", "add"):
        shop.change(kind, 2)
        shop.night()
        assert builds.find() == first
        newest = builds.read(builds.of(first.space)[-1])
        assert builds.of(first.space) == [first.path, newest.path]
        assert {shard.build for shard in newest.shards} <= {first.build, newest.build}, "nothing of the bad build"
    with Run("gc", settings, ("index",)) as run:
        gc(run)
    assert builds.problems(first) == builds.problems(newest) == []
    shop.change("share", 2)
    shop.night("remove")
    shop.check()
    assert shop.steps == ["whole", "delta", "delta", "delta", "delta"]


def test_a_build_with_regions_grows_night_by_night(configure: Any, tmp_path: Path) -> None:
    settings = configure(tmp_path, *LIMITS)
    shop = Shop(settings, 3, regions=2)
    shop.change("add", 25)
    shop.night()
    shop.check()
    assert Builds(settings.root).find().regions
    for kind in ("add", "delete", "share"):
        shop.change(kind, 2)
    shop.night()
    shop.check()
    assert shop.steps == ["whole", "delta"]


def test_a_build_of_format_2_is_searched_and_grows(configure: Any, tmp_path: Path) -> None:
    """A root of the version before: its manifest, id maps without regions, and one CURRENT for all spaces."""
    settings = configure(tmp_path, *LIMITS)
    shop = Shop(settings, 4)
    shop.change("add", 30)
    shop.night()
    for kind in ("add", "delete"):
        shop.change(kind, 2)
    shop.night()
    folder = Path(settings.root, "builds")
    newest, oldest = Builds(settings.root).chain()
    for path in (oldest, newest):  # which has id maps of the oldest
        _to_format_2(folder / path)
    (folder / "CURRENT").write_text(json.dumps({"current": newest, "previous": [oldest]}))
    (folder / newest).with_name("CURRENT").unlink()
    shop.check()
    for kind in ("add", "delete"):
        shop.change(kind, 2)
    shop.night()
    shop.check()
    assert shop.steps == ["whole", "delta", "delta"]
    assert not (folder / "CURRENT").exists()


def _to_format_2(folder: Path) -> None:
    """Rewrites a build as the version before wrote it."""
    maps = {f"{folder.name}/{path.name}": path for path in folder.glob("shard-*.arrow")}
    for path in maps.values():
        ids = pa.ipc.open_file(path).read_all().drop_columns(["region"])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, ids.schema) as writer:
            writer.write_table(ids)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"format": 2, "removed": manifest.pop("tombstones")}
    for shard in manifest["shards"]:
        del shard["regions"]
        shard |= {"knob": shard.pop("index_params"), "removed": shard.pop("tombstoned")}
        data = (folder.parent / shard["ids"]["name"]).read_bytes()
        shard["ids"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_night_of_nothing_but_withdrawals_builds_no_shard(configure: Any, tmp_path: Path) -> None:
    settings = configure(tmp_path, *LIMITS)
    shop = Shop(settings, 5)
    shop.change("add", 30)
    shop.night()
    first = Builds(settings.root).find()
    shop.change("delete", 3)
    shop.night()
    shop.check()
    second = Builds(settings.root).find()
    assert [shard.index for shard in second.shards] == [shard.index for shard in first.shards]
    assert second.tombstones
    assert sum(shard.tombstoned for shard in second.shards) == first.vectors - second.vectors > 0
    assert all(file.name.startswith(first.build) for shard in second.shards for file in (shard.index, shard.ids))
    shop.change("add", 2)
    shop.night()
    third = Builds(settings.root).find()
    assert [shard.delta for shard in third.shards] == [False] * len(first.shards) + [True]
