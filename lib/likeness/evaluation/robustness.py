"""Robustness of a build against changed photos: recall@1 by perturbation, with and without further query views."""

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field

from likeness.catalog.hidden_products import HiddenProducts
from likeness.catalog.samples import draw_sample
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.core.statistics import Figure, share
from likeness.images.perturbations import PERTURBATIONS, perturb
from likeness.images.query_views import QueryView
from likeness.index.builds import Builds
from likeness.serving.encoder import Encoder
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

_TIMED = 30
"""Queries that are timed."""


@dataclass(frozen=True)
class ViewRecall:
    """Recall@1 by perturbation with some query views (`looks`), and the cost of a query.

    The network encodes `pictures` images for a query; `ms` is the median time from the photo's bytes to the answer.
    """

    looks: Sequence[QueryView]
    pictures: int
    ms: float
    recall: Mapping[str, Figure]


class Robustness(BaseModel, frozen=True, serialize_by_alias=True):
    """How often a changed photo finds itself, or its product, as the first answer."""

    build: str
    images: int
    photos: int
    views: Sequence[ViewRecall] = Field(serialization_alias="asked")


def robustness(
    settings: Settings, build: str, most: int, looks: Collection[QueryView], report: Callable[[str], None]
) -> Robustness:
    """Searches a build in all categories for changed photos of its own: without views, with each, and with all.

    Args:
        settings: of the root.
        build: its name; the one in service if empty.
        most: photos to draw.
        looks: further query views to try.
        report: called with the name of each perturbation.

    Raises:
        UsageError: no such build, or it has no photos.
    """
    builds = Builds.open(settings)
    manifest = builds.find(build)
    tables = TableReader(settings)
    snapshots = {name: manifest.snapshots[name] for name in (FEATURES.name, LISTINGS.name)}
    sample = draw_sample(tables, [manifest.space], most, snapshots=snapshots)
    photos = tables.photos(sample.image_ids)
    if not photos:
        raise UsageError(f"build {manifest.path} has no photo of an active listing; name another with --build")
    products = dict(zip(sample.image_ids, sample.labels.products, strict=True))
    root = Root(manifest, Leaf(builds, manifest), HiddenProducts(settings.root))
    encoder = Encoder(settings, manifest.space)
    view_sets = [(), *((look,) for look in looks), *([tuple(looks)] if len(looks) > 1 else [])]
    good = {one: dict.fromkeys(PERTURBATIONS, 0) for one in view_sets}

    def is_first(vectors: np.ndarray, image_id: str) -> bool:
        results = root.search(vectors, manifest.space, SearchParams(1, "all")).results
        return bool(results) and not products[image_id].isdisjoint(results[0].products)

    for name in PERTURBATIONS:
        report(name)
        for image_id, photo in photos.items():
            data = perturb(photo, name, settings.limits)
            vectors = {one: encoder.encode(data, looks=one) for one in view_sets if len(one) < 2}
            for one in view_sets:
                rows = vectors[one] if one in vectors else np.concatenate(list(vectors.values()))
                good[one][name] += is_first(rows, image_id)
    report("the time of a query")
    recalls = []
    for one in view_sets:
        times, pictures = list[float](), 0
        for image_id, photo in list(photos.items())[:_TIMED]:
            start = time.perf_counter()
            rows = encoder.encode(photo, looks=one)
            is_first(rows, image_id)
            times.append((time.perf_counter() - start) * 1000)
            pictures = len(rows)
        recall = {name: share(count, len(photos)) for name, count in good[one].items()}
        recalls.append(ViewRecall(one, pictures, statistics.median(times), recall))
    return Robustness(build=manifest.path, images=manifest.images, photos=len(photos), views=recalls)
