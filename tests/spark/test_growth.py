"""The index as it grows night by night, against a brute-force model of what the tables say."""

import datetime
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root, SearchParams
from likeness.spark.run import Run
from likeness.spark.stages.compact import compact
from likeness.spark.stages.index import index, publish
from likeness.storage.tables import FEATURES, LISTINGS

CATEGORIES = ("hat", "裤子/2.0", "shoes", "tiny")
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
LIMITS = ("index.whole_below=0", "index.max_changed=0.5", "index.max_deltas=2", "index.pack_vectors=6")


class Shop:
    """What the tables say, kept beside them: listings by (product, image), vectors by image."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.given, self.rng = settings, np.random.default_rng(seed)
        self.listings: dict[tuple[str, str], tuple[str, bool]] = {}
        self.vectors: dict[str, np.ndarray] = {}
        self.steps: list[str] = []

    def change(self, kind: str, count: int) -> None:
        """Changes some listings in the model alone."""
        known = sorted(self.listings)
        for _ in range(count):
            if kind == "add" or not known:
                image = hashlib.sha256(self.rng.bytes(8)).hexdigest()
                self.vectors[image] = self.rng.standard_normal(1280, np.float32)
                for _ in range(self.rng.integers(1, 3)):
                    self.listings[f"p{self.rng.integers(40)}", image] = (self._category(), True)
                continue
            product, image = known[self.rng.integers(len(known))]
            category, active = self.listings[product, image]
            if kind == "share":
                self.listings[f"p{self.rng.integers(40)}", image] = (self._category(), True)
            else:
                moved = self._category() if kind == "recategorise" else category
                shown = {"delete": False, "re-add": True}.get(kind, active)
                self.listings[product, image] = (moved, shown)

    def night(self) -> None:
        """Writes the model into the tables, indexes and publishes."""
        rows = [
            {"product_id": product, "image_id": image, "uri": f"file:///{image[:8]}.jpg", "category": category}
            | {"attributes": "{}", "active": active, "since": NOW}
            for (product, image), (category, active) in sorted(self.listings.items())
        ]
        with Run("index", self.given, ("index",)) as run:
            space, tables = run.space.id, run.tables
            here = {row["image_id"] for row in tables.read(FEATURES).select("image_id").collect()}
            vectors = [
                {"image_id": image, "space": space, "ingest_date": NOW.date(), "vector": vector.tolist(), "norm": 1.0}
                for image, vector in self.vectors.items()
                if image not in here
            ]
            tables.upsert(LISTINGS, tables.rows(LISTINGS, rows))
            if vectors:
                tables.append(FEATURES, tables.rows(FEATURES, vectors))
            built = index(run)
            assert built
            publish(run, built)
            self.steps.append(run.facts.index.step)

    def check(self) -> None:
        """Every category's answers, and those of all, are those of a scan over what is active."""
        builds = Builds(self.given.root)
        manifest = builds.find()
        assert builds.problems(manifest) == []
        root = Root(manifest, Leaf(builds, manifest))
        shown: dict[tuple[str, str], list[str]] = {}
        for (product, image), (category, active) in self.listings.items():
            if active:
                shown.setdefault((category, image), []).append(product)
        assert manifest.categories() == {
            name: count for name in sorted(CATEGORIES) if (count := sum(category == name for category, _ in shown))
        }
        assert manifest.images == len({image for _, image in shown})
        for searched in ("all", *manifest.categories()):
            members: dict[str, set[str]] = {}
            for (category, image), products in shown.items():
                if searched in ("all", category):
                    members.setdefault(image, set()).update(products)
            self._compare(root, searched, members)

    def _compare(self, root: Root, searched: str, members: dict[str, set[str]]) -> None:
        images = sorted(members)
        matrix = np.stack([self.vectors[image] for image in images]).astype(np.float64)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        for k in (5, len(images) + 3):
            query = self.rng.standard_normal(1280, np.float32)
            scores = matrix @ (query / np.linalg.norm(query))
            best = np.argsort(-scores)[:k]
            answer = root.search(query, root_space(root), SearchParams(k, searched))
            assert [result["image_id"] for result in answer["results"]] == [images[row] for row in best]
            assert [result["score"] for result in answer["results"]] == pytest.approx(scores[best], abs=1e-5)
            assert [set(result["products"]) for result in answer["results"]] == [members[images[row]] for row in best]
            assert answer["coverage"]["searched"] >= len(images)

    def _category(self) -> str:
        return str(self.rng.choice(CATEGORIES, p=[0.5, 0.3, 0.15, 0.05]))


def root_space(root: Root) -> str:
    return root.manifest.space


NIGHTS = ("add", "delete", "re-add", "recategorise", "share")


@pytest.mark.parametrize(("seed", "nights"), [(1, 2), pytest.param(2, 10, marks=pytest.mark.slow)])
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
        shop.night()
        shop.check()
    assert {"whole", "delta", *(["merge"] if nights >= 10 else [])} <= set(shop.steps)


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
