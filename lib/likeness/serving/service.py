"""The query service of one root: photos, products or vectors in, answers out; it goes along when a build is published.

Every answer is of one build.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from likeness import storage
from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import ServiceError, UsageError
from likeness.core.settings import Settings
from likeness.images.image import WHOLE, Box
from likeness.images.query_views import QueryView
from likeness.index import distance
from likeness.index.manifest import Manifest
from likeness.serving.attribute_filter import AttributeLookup
from likeness.serving.build_watcher import BuildWatcher, LoadedBuild, UnknownError
from likeness.serving.category_vote import Prediction
from likeness.serving.root import SearchParams
from likeness.serving.thumbnails import Thumbnails
from likeness.storage import KeyedStore, Product
from likeness.storage.table_reader import TableReader

Combine = Literal["best", "mean"]
"""Several photos of one thing: an image is as near as to the nearest of them, or as to their mean."""
_AT_ONCE = 16


class Service:
    """Answers queries about the build in service, and about any other by its name."""

    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda told: None) -> None:
        self.settings, self._say = settings, say
        self._hidden = HiddenProducts(settings.root)
        self.current = BuildWatcher(settings, self._hidden, say)
        self._store: KeyedStore | None = None
        self._opening = threading.Lock()
        self.thumbnails = Thumbnails(TableReader(settings), settings.limits)

    def start(self) -> None:
        """Loads the build in service, and goes along from then on."""
        self.current.start()

    def stop(self) -> None:
        """Ends what `start` began."""
        self.current.stop()
        if self._store:
            self._store.close()

    def photos(
        self,
        photos: Sequence[bytes],
        wish: SearchParams,
        build: str = "",
        box: Box = WHOLE,
        combine: Combine = "best",
        looks: Collection[QueryView] = (),
    ) -> dict[str, Any]:
        """Answers for one or several photos of a thing, or for the part of each in a box; by further looks of them too.

        Raises:
            BadImage: a photo cannot be used.
            UsageError: the wish cannot be meant.
            NotReadyError: no build is loaded.
        """
        self._refuse(wish)
        loaded, begun = self.current.loaded(build), time.perf_counter()
        vectors = np.concatenate([loaded.encoder.encode(photo, box, looks) for photo in photos])
        told = self._shown(loaded, photos, box)
        took = {"encode": _ms(begun)}
        return self._answered(loaded, self._combined(vectors, combine, loaded.manifest), wish, took, told)

    def product(self, product_id: str, wish: SearchParams, build: str = "") -> dict[str, Any]:
        """Answers with what looks like the photos of a product, itself left out; no network is run.

        Raises:
            UnknownError: the keyed store knows no such product, or no vector of it.
        """
        self._refuse(wish)
        loaded, begun = self.current.loaded(build), time.perf_counter()
        facts = self._keyed().get_products([product_id]).get(product_id)
        if facts is None or not self._hidden.without([product_id]):
            raise UnknownError(f"product {product_id!r} is not in the keyed store")
        vectors = self._keyed().get_vectors(loaded.manifest.space, facts.image_ids)
        if not vectors:
            raise UnknownError(f"product {product_id!r} has no vector of {loaded.manifest.space}")
        took = {"look_up": _ms(begun)}
        stacked = np.stack([vectors[name] for name in sorted(vectors)])
        there = facts.category in loaded.manifest.categories()
        told = Prediction([(facts.category, 1.0)], known=True) if there else None
        return self._answered(loaded, stacked, wish, took, told, [product_id])

    def vectors(
        self, vectors: np.ndarray, space: str, wish: SearchParams, build: str = "", combine: Combine = "best"
    ) -> dict[str, Any]:
        """Answers for vectors, float32 (q, dim), as the layer gives them.

        Raises:
            SpaceMismatch: they are of another space.
        """
        self._refuse(wish)
        loaded = self.current.loaded(build)
        return self._answered(loaded, self._combined(vectors, combine, loaded.manifest), wish, {}, space=space)

    def batch(self, vectors: np.ndarray, space: str, wish: SearchParams, build: str = "") -> list[dict[str, Any]]:
        """Answers each of some vectors, float32 (q, dim), by itself, and all of one build.

        Raises:
            SpaceMismatch: they are of another space.
        """
        self._refuse(wish)
        loaded = self.current.loaded(build)
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # so that the leaf has them together
            return list(pool.map(lambda row: self._answered(loaded, row, wish, {}, space=space), vectors))

    def catalogue(self, count: int) -> dict[str, Any]:
        """What the build in service holds: images by category, and some of them, by which to start."""
        loaded = self.current.loaded()
        some = [hit for hit in loaded.leaf.some(2 * count) if self._hidden.without(hit.products)][:count]
        shown = [
            {"image_id": h.image_id, "product_id": h.products[0], "category": h.category, "uri": h.uri} for h in some
        ]
        return {
            "space": loaded.manifest.space,
            "build": loaded.manifest.build,
            "images": loaded.manifest.images,
            "products": loaded.manifest.products,
            "categories": loaded.manifest.categories(),
            "some": [one | {"url": self._url(one)} for one in shown],
        }

    def thumbnail(self, image_id: str, side: int) -> bytes | None:
        """A JPEG of an image that the build in service shows; None if it shows no such image, or it cannot be had."""
        shown = self.current.loaded().leaf.shown(image_id)
        if shown is None or not self._hidden.without(shown.products):
            return None
        return self.thumbnails.get(image_id, shown.uri, side)

    def _shown(self, loaded: LoadedBuild, photos: Sequence[bytes], box: Box) -> Prediction | None:
        """What a category model says that wants photos; None if it is content with vectors, or there is none."""
        recogniser = loaded.root.recogniser
        told = [recogniser.of_photo(photo, box) for photo in photos] if recogniser else []
        known = [one for one in told if one is not None]
        if not recogniser or not known:
            return None
        return Prediction(recogniser.votes(np.concatenate(known), loaded.manifest.categories()))

    def _refuse(self, wish: SearchParams) -> None:
        most = self.settings.serve.k_max
        if wish.offset + wish.k > most:
            raise UsageError(f"results up to {wish.offset + wish.k} are asked for; serve.k_max is {most}")

    def _combined(self, vectors: np.ndarray, combine: Combine, manifest: Manifest) -> np.ndarray:
        if combine == "best":
            return vectors
        mean: np.ndarray = distance.prepared(vectors, manifest.metric).mean(axis=0, keepdims=True)
        return mean

    def _answered(
        self,
        loaded: LoadedBuild,
        vectors: np.ndarray,
        wish: SearchParams,
        took: dict[str, float],
        told: Prediction | None = None,
        without: Collection[str] = (),
        space: str = "",
    ) -> dict[str, Any]:
        named = loaded.manifest.space
        answer = loaded.root.search(vectors, space or named, wish, told, without, AttributeLookup(self._keyed, named))
        begun = time.perf_counter()
        facts = self._facts([result["product_id"] for result in answer["results"]])
        for result in answer["results"]:
            product = facts.get(result["product_id"])
            result["attributes"] = dict(product.attributes) if product else {}
            result["url"] = self._url(result)
        answer["took_ms"] = took | answer["took_ms"] | {"facts": _ms(begun)}
        return answer

    def _facts(self, product_ids: Sequence[str]) -> dict[str, Product]:
        """Facts for display: an answer without them is better than none."""
        try:
            return self._keyed().get_products(list(dict.fromkeys(product_ids)))
        except ServiceError as error:
            self._say(f"facts: {error}")
            return {}

    def _url(self, result: dict[str, Any]) -> str:
        """Where a browser finds the photo: as `serve.photo_url` says, or a thumbnail from here."""
        template = self.settings.serve.photo_url
        if not template:
            return f"/v1/images/{result['image_id']}"
        named = {name: quote(str(result[name]), safe="") for name in ("image_id", "product_id", "category")}
        return template.format(**named, uri=result["uri"])

    def _keyed(self) -> KeyedStore:
        if self._store is None:
            with self._opening:
                if self._store is None:
                    self._store = storage.keyed(storage.keyed_uri(self.settings.keyed.uri, self.settings.root))
        return self._store


def _ms(begun: float) -> float:
    return round((time.perf_counter() - begun) * 1000, 3)
