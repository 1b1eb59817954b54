"""What a build finds again of photos that people have changed: recall@1 by change, with and without further looks."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from likeness.catalog.hidden_products import HiddenProducts
from likeness.catalog.samples import draw_sample
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.core.statistics import Figure, share
from likeness.images.perturbations import CHANGES, perturbed
from likeness.images.query_views import QueryView
from likeness.index.builds import Builds
from likeness.serving.encoder import Encoder
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root, SearchParams
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

_TIMED = 30
"""Queries whose time is taken."""


@dataclass(frozen=True)
class ViewRecall:
    """What some looks are worth: recall@1 by change, and what a query costs with them.

    `pictures` go through the network for a query, in a median of `ms` from the photo's bytes to the answer.
    """

    looks: Sequence[QueryView]
    pictures: int
    ms: float
    recall: Mapping[str, Figure]


@dataclass(frozen=True)
class Robustness:
    """How often the photo itself, or its product, is the first answer to what was made of it."""

    build: str
    images: int
    photos: int
    asked: Sequence[ViewRecall]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def robustness(
    settings: Settings, build: str, most: int, looks: Collection[QueryView], report: Callable[[str], None]
) -> Robustness:
    """Asks a build for photos of its own, changed, in all categories: without looks, by each, and by all together.

    Args:
        settings: of the root.
        build: its name; the one in service if empty.
        most: photos that are drawn.
        looks: further looks that are tried.
        report: told of each change.

    Raises:
        UsageError: no such build, or it has no photos.
    """
    builds = Builds(settings.root, settings.extract.cache)
    manifest = builds.find(build)
    warehouse = TableReader(settings)
    snapshots = {name: manifest.snapshots[name] for name in (FEATURES.name, LISTINGS.name)}
    drawn = draw_sample(warehouse, [manifest.space], most, snapshots=snapshots)
    photos = warehouse.photos(drawn.image_ids)
    if not photos:
        raise UsageError(f"build {manifest.path} has no photos that are shown; name another with --build")
    products = dict(zip(drawn.image_ids, drawn.labels.products, strict=True))
    root, encoder = (
        Root(manifest, Leaf(builds, manifest), HiddenProducts(settings.root)),
        Encoder(settings, manifest.space),
    )
    sets = [(), *((look,) for look in looks), *([tuple(looks)] if len(looks) > 1 else [])]
    good = {one: dict.fromkeys(CHANGES, 0) for one in sets}

    def found(vectors: np.ndarray, image_id: str) -> bool:
        results = root.search(vectors, manifest.space, SearchParams(1, "all"))["results"]
        return bool(results) and not products[image_id].isdisjoint(results[0]["products"])

    for name in CHANGES:
        report(name)
        for image_id, photo in photos.items():
            data = perturbed(photo, name, settings.limits)
            vectors = {one: encoder.encode(data, looks=one) for one in sets if len(one) < 2}
            for one in sets:
                mine = vectors[one] if one in vectors else np.concatenate(list(vectors.values()))
                good[one][name] += found(mine, image_id)
    report("the time of a query")
    told = []
    for one in sets:
        took, pictures = list[float](), 0
        for image_id, photo in list(photos.items())[:_TIMED]:
            begun = time.perf_counter()
            mine = encoder.encode(photo, looks=one)
            found(mine, image_id)
            took.append((time.perf_counter() - begun) * 1000)
            pictures = len(mine)
        recall = {name: share(count, len(photos)) for name, count in good[one].items()}
        told.append(ViewRecall(one, pictures, statistics.median(took), recall))
    return Robustness(manifest.path, manifest.images, len(photos), told)
