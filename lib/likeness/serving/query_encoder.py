"""Query encoders: a term of each modality in, vectors of a build's space and what the term says of categories out.

A new modality, such as text, is a type of term in `query_terms` and a `QueryEncoder` in `query_encoders`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import ServiceError, UsageError
from likeness.images.image import BadImage
from likeness.index import distance
from likeness.serving.category_vote import Prediction
from likeness.serving.keyed_reader import KeyedReader
from likeness.serving.loaded_build import LoadedBuild, UnknownError
from likeness.serving.query_terms import Combine, PhotoTerm, ProductTerm, VectorTerm

T_contra = TypeVar("T_contra", contravariant=True)


class PhotoError(UsageError):
    """A photo cannot be searched with; `reason` is that of the failure ledger."""

    def __init__(self, bad: BadImage, which: str = "") -> None:
        super().__init__(f"{which}: {bad}" if which else str(bad))
        self.reason = bad.reason

    @classmethod
    def of(cls, bad: BadImage, number: int, count: int) -> Self:
        """The error about one of some photos, counted from 1."""
        return cls(bad, f"photo {number} of {count}" if count > 1 else "")


class OverloadedError(ServiceError):
    """The service is too busy for a query, or the query asks too much of it; the message says what to do."""


@dataclass(frozen=True, eq=False)
class EncodedQuery:
    """Vectors, float32 (q, dim), of a space; the nearest of them gives an image its score.

    `prediction` is what the term says of categories, if anything; `excluded` are products that are no answer to it.
    """

    vectors: np.ndarray
    space: str
    prediction: Prediction | None = None
    excluded: Collection[str] = ()


class QueryEncoder(Protocol[T_contra]):
    """Encodes terms of one modality, into vectors with a direction; `stage` names its time in answers, or is empty."""

    stage: str

    def encode(self, term: T_contra, loaded: LoadedBuild) -> EncodedQuery:
        """Encodes a term for a search of a build."""


class PhotoQueryEncoder:
    """Encodes photos by the network of the space, and predicts categories if the category model takes photos."""

    stage = "encode"

    def encode(self, term: PhotoTerm, loaded: LoadedBuild) -> EncodedQuery:
        """Encodes photos of one thing.

        Raises:
            PhotoError: a photo cannot be used.
            UsageError: the network gives it a vector without a direction.
            OverloadedError: the photos were not decoded in time.
        """
        encode = partial(loaded.encoder.encode, box=term.box, looks=term.looks, until=term.until, costly=term.costly)
        count, rows = len(term.photos), list[np.ndarray]()
        try:
            for number, photo in enumerate(term.photos, 1):
                try:
                    rows.append(encode(photo))
                except BadImage as bad:
                    raise PhotoError.of(bad, number, count) from None
            prediction = self._predict(term, loaded)
        except BadImage as bad:
            raise PhotoError(bad) from None
        except TimeoutError:
            raise OverloadedError(
                "the photos were not decoded within serve.deadline_ms; send fewer or smaller ones, or try again"
            ) from None
        return EncodedQuery(combined(np.concatenate(rows), term.combine, loaded), loaded.manifest.space, prediction)

    @staticmethod
    def _predict(term: PhotoTerm, loaded: LoadedBuild) -> Prediction | None:
        """Categories by a model that takes photos; None if there is none, or it takes vectors."""
        classifier = loaded.root.classifier
        if classifier is None:
            return None
        predict = partial(classifier.predict_photo, box=term.box, until=term.until, costly=term.costly)
        probabilities = [rows for photo in term.photos if (rows := predict(photo)) is not None]
        if not probabilities:
            return None
        return Prediction(classifier.rank_categories(np.concatenate(probabilities), loaded.root.categories))


class ProductQueryEncoder:
    """Looks up the stored vectors and the category of a product; runs no network."""

    stage = "look_up"

    def __init__(self, keyed: KeyedReader, hidden: HiddenProducts) -> None:
        self._keyed, self._hidden = keyed, hidden

    def encode(self, term: ProductTerm, loaded: LoadedBuild) -> EncodedQuery:
        """Looks up the vectors of a product's photos.

        Raises:
            UnknownError: the keyed store holds no such product, or no vector of it.
            UsageError: its vectors are 0.
            ServiceError: the keyed store does not answer.
        """
        name, space = term.product_id, loaded.manifest.space
        product = self._keyed.products([name]).get(name)
        if product is None or not self._hidden.without([name]):
            raise UnknownError(f"product {name!r} is not in the keyed store")
        rows = self._keyed.product_vectors(space, product)
        if not len(rows):
            raise UnknownError(f"product {name!r} has no vector of {space}")
        bad = distance.without_direction(rows, loaded.manifest.metric)
        if len(bad):
            rows = np.delete(rows, bad, axis=0)
        if not len(rows):
            raise UsageError(f"product {name!r} has no vector with a direction, only 0; search with a photo of it")
        in_build = product.category in loaded.root.categories
        prediction = Prediction([(product.category, 1.0)], restricts=True) if in_build else None
        return EncodedQuery(rows, space, prediction, [name])


class VectorQueryEncoder:
    """Passes vectors on as they are."""

    stage = ""

    def encode(self, term: VectorTerm, loaded: LoadedBuild) -> EncodedQuery:
        """Combines the vectors.

        Raises:
            UsageError: one of them has no direction.
        """
        return EncodedQuery(combined(term.vectors, term.combine, loaded), term.space)


def check_direction(vectors: np.ndarray, metric: str) -> None:
    """Checks that query vectors, float32 (q, dim), can be compared by the metric of a build.

    Raises:
        UsageError: one of them is 0, or too long.
    """
    if len(bad := distance.without_direction(vectors, metric)):
        what = "is not finite, or too long, in float32" if vectors[bad[0]].any() else "is 0, which has no direction"
        which = f"vector {bad[0] + 1} of {len(vectors)} of the query" if len(vectors) > 1 else "the vector of the query"
        raise UsageError(f"{which} {what}, so nothing is near it by {metric}; search with another one")


def combined(vectors: np.ndarray, combine: Combine, loaded: LoadedBuild) -> np.ndarray:
    """Vectors of one thing, float32 (q, dim): all of them, or the mean of them as the build compares them, (1, dim).

    Raises:
        UsageError: one of them has no direction, or their mean.
    """
    metric = loaded.manifest.metric
    if combine == "mean":
        vectors = distance.prepared(vectors, metric).mean(axis=0, keepdims=True)
    check_direction(vectors, metric)
    return vectors


def query_encoders(keyed: KeyedReader, hidden: HiddenProducts) -> Mapping[type, QueryEncoder[Any]]:
    """The encoder of each type of term."""
    return {
        PhotoTerm: PhotoQueryEncoder(),
        ProductTerm: ProductQueryEncoder(keyed, hidden),
        VectorTerm: VectorQueryEncoder(),
    }
