"""The search methods of the Python API, alike for `Library` in this process and `Client` over HTTP."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Self, Unpack

import numpy as np

from likeness.serving.query_terms import Photo, ProductTerm, Term, query_vectors, search_term
from likeness.serving.responses import Answer, ResultItem
from likeness.serving.search_params import SearchOptions, SearchParams

THUMBNAIL_SIDE = 96
"""Pixels of a side of the thumbnails in notebooks, at most."""


class SearchApi(ABC):
    """Searches with photos, products and vectors; answers are typed, and show as a table in a notebook."""

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
            ServiceError: a store or the service does not answer.
        """
        params = SearchParams(**options)
        term = search_term(photos, params.space, box, combine, looks)
        return self._answer(term, params).with_thumbnails(self._thumbnail)

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
        return self._answer(ProductTerm(product_id), SearchParams(**options)).with_thumbnails(self._thumbnail)

    def batch(self, vectors: np.ndarray, **options: Unpack[SearchOptions]) -> list[Answer]:
        """Answers each of some vectors, (q, dim), by itself; `space` must be given. Errors as of `search`."""
        params = SearchParams(**options)
        answers = self._batch(query_vectors(vectors, params.space), params)
        return [answer.with_thumbnails(self._thumbnail) for answer in answers]

    @abstractmethod
    def close(self) -> None:
        """Closes what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def _answer(self, term: Term, params: SearchParams) -> Answer: ...

    @abstractmethod
    def _batch(self, vectors: np.ndarray, params: SearchParams) -> Sequence[Answer]: ...

    @abstractmethod
    def _thumbnail(self, item: ResultItem) -> bytes | None: ...
