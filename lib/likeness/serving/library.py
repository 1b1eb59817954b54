"""The Python API: a root opened as a library of products to search, without a server."""

from collections.abc import Collection, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from likeness import storage
from likeness.catalog.hidden_products import HiddenProducts
from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.core.settings import Settings, load_settings
from likeness.index.manifest import Manifest
from likeness.models.model_registry import ModelRegistry
from likeness.serving.loaded_build import LocalBuilds
from likeness.serving.query_terms import Photo, ProductTerm, Term, query_vectors, search_term
from likeness.serving.responses import Answer, ResultItem
from likeness.serving.search_engine import SearchEngine
from likeness.serving.search_params import SearchOptions, SearchParams
from likeness.storage.table_reader import TableReader

if TYPE_CHECKING:
    from likeness.catalog.dataset import Features

THUMBNAIL_SIDE = 96


class Library:
    """A root, opened by `likeness.open`: searches its builds in this process, and gives its tables and models.

    A build and the network of its space are loaded by the first search. May be shared by threads.
    """

    def __init__(self, settings: Settings) -> None:
        """Opens the root of the settings.

        Raises:
            UsageError: there is no such root.
        """
        root = uris.canonical(settings.root)
        if not storage.files(root).exists(root):
            raise UsageError(f"root {settings.root} does not exist; fill one with ./spark-submit.sh nightly")
        self.settings = settings
        hidden = HiddenProducts(settings.root)
        self._builds = LocalBuilds(settings, hidden, lambda message: None)
        self._engine = SearchEngine(settings, self._builds, hidden, lambda message: None)

    def search(
        self,
        *photos: Photo,
        box: Sequence[float] | None = None,
        combine: str = "best",
        looks: Collection[str] = (),
        **options: Unpack[SearchOptions],
    ) -> Answer:
        """Finds the products that look like a photo, or like several photos of one thing.

        >>> library = likeness.open("var")
        >>> answer = library.search("hat.jpg", k=3, category="all")
        >>> len(answer.results)
        3
        >>> answer.results[0].category
        'hat'

        Vectors, a floating-point array (dim,) or (q, dim), are searched in place of photos; they need `space`.

        Args:
            photos: each as file content, a path, or pixels, uint8 (h, w, 3).
            box: left, top, right and bottom of the part of each photo to search with, each between 0 and 1.
            combine: of several photos or vectors the `best` of each counts, or their `mean`.
            looks: further views of each photo: `turned`, `whole`, `sharp`; the nearest counts, each takes time.
            options: fields of `SearchParams`: k, category, where, space, build and more.

        Raises:
            UsageError: an argument or a photo cannot be used, or there is no such build, space or category.
            SpaceMismatch: vectors are of another space than the build.
        """
        params = SearchParams(**options)
        return self._search(search_term(photos, params.space, box, combine, looks), params)

    def similar(self, product_id: str, **options: Unpack[SearchOptions]) -> Answer:
        """Finds the products that look like a product of the catalogue, which itself is left out.

        >>> library = likeness.open("var")
        >>> product = library.search("hat.jpg", k=1).results[0].product_id
        >>> product in [result.product_id for result in library.similar(product).results]
        False

        Args:
            product_id: of the catalogue.
            options: fields of `SearchParams`; `category` `auto` is the product's own.

        Raises:
            UsageError: there is no such product, build, space or category.
        """
        return self._search(ProductTerm(product_id), SearchParams(**options))

    def batch(self, vectors: np.ndarray, **options: Unpack[SearchOptions]) -> Sequence[Answer]:
        """Answers each of some vectors, (q, dim), by itself; `space` must be given. Errors as of `search`."""
        params = SearchParams(**options)
        answers = self._engine.batch(query_vectors(vectors, params.space), params)
        return [self._with_photos(answer) for answer in answers]

    def vectors(self, space: str = "", photos: int = 1_000_000) -> "Features":
        """The stored vectors of photos of active listings, of one space (default: the configured one).

        >>> features = likeness.open("var").vectors()
        >>> features.vectors.dtype, len(features.image_ids) == len(features.vectors)
        (dtype('float32'), True)

        Args:
            space: its name, with or without its hash.
            photos: at most; a random sample if there are more.

        Raises:
            UsageError: there is no vector of the space.
        """
        from likeness.catalog.dataset import read_features

        return read_features(self.settings, space, photos=photos)

    @property
    def tables(self) -> TableReader:
        """The Iceberg tables, read without Spark into Arrow."""
        return self._engine.tables

    @property
    def build(self) -> Manifest:
        """The manifest of the build in service: its space, sizes, shards and measured recall."""
        return self._builds.manifest()

    @cached_property
    def models(self) -> ModelRegistry:
        """The trained models, with their cards."""
        return ModelRegistry(self.settings.root, self.settings.extract.cache)

    def close(self) -> None:
        """Closes the keyed store."""
        self._engine.close()

    def __enter__(self) -> "Library":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _search(self, term: Term, params: SearchParams) -> Answer:
        return self._with_photos(self._engine.search(term, params))

    def _with_photos(self, answer: Answer) -> Answer:
        return answer.with_thumbnails(self._thumbnail)

    def _thumbnail(self, item: ResultItem) -> bytes | None:
        return self._engine.thumbnails.get(item.image_id, item.uri, THUMBNAIL_SIDE)


def open_library(root: str, config: str | None, settings: dict[str, Any]) -> Library:
    """Opens a root; see `likeness.open`."""
    flags = {name.replace("__", "."): value for name, value in settings.items()}
    return Library(load_settings(config, {"root": str(root), **flags}))
