"""The Python API: a root opened as a library of products to search, without a server."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from likeness import storage
from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.settings import Settings
from likeness.index.manifest import Manifest
from likeness.models.model_registry import ModelRegistry
from likeness.serving.loaded_build import LocalBuilds
from likeness.serving.query_terms import Term
from likeness.serving.responses import Answer, ResultItem
from likeness.serving.search_api import THUMBNAIL_SIDE, SearchApi
from likeness.serving.search_engine import SearchEngine
from likeness.serving.search_params import SearchParams
from likeness.storage.table_reader import TableReader

if TYPE_CHECKING:
    from likeness.catalog.dataset import Features


class Library(SearchApi):
    """A root, opened by `likeness.open`: searches its builds in this process, and gives its tables and models.

    A build and the network of its space are loaded by the first search. May be shared by threads.
    """

    def __init__(self, settings: Settings) -> None:
        """Opens the root of the settings.

        Raises:
            UsageError: there is no such root (a `MissingRootError`), or it is a file.
            ServiceError: it cannot be read.
        """
        storage.check_root(settings.root)
        self.settings = settings
        hidden = HiddenProducts(settings.root)
        self._builds = LocalBuilds(settings, hidden, lambda message: None)
        self._engine = SearchEngine(settings, self._builds, hidden, lambda message: None)

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

    def _answer(self, term: Term, params: SearchParams) -> Answer:
        return self._engine.search(term, params)

    def _batch(self, vectors: np.ndarray, params: SearchParams) -> Sequence[Answer]:
        return self._engine.batch(vectors, params)

    def _thumbnail(self, item: ResultItem) -> bytes | None:
        return self._engine.thumbnails.get(item.image_id, item.uri, THUMBNAIL_SIDE)
