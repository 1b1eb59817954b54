"""Query terms: what a search can start from, as a type for each modality: photos, a product, vectors."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from likeness.core.errors import UsageError
from likeness.images.image import WHOLE, Box, encode_png
from likeness.images.query_views import QueryView

Combine = Literal["best", "mean"]
"""How several photos or vectors of one thing are compared: the nearest of them counts, or their mean."""
Photo = bytes | str | Path | np.ndarray
"""A photo as file content, as a path, or as pixels, uint8 (h, w, 3)."""


@dataclass(frozen=True)
class PhotoTerm:
    """Photos of one thing, as file content; of each the part in a box, and further views of it.

    They must be decoded by `until`, a time of the monotonic clock; `costly` ones yield the processor to others.
    """

    photos: Sequence[bytes]
    box: Box = WHOLE
    combine: Combine = "best"
    looks: Collection[QueryView] = ()
    until: float = math.inf
    costly: bool = False


@dataclass(frozen=True)
class ProductTerm:
    """A product of the catalogue."""

    product_id: str


@dataclass(frozen=True, eq=False)
class VectorTerm:
    """Vectors of one thing, float32 (q, dim), as the layer of a feature space gives them."""

    vectors: np.ndarray
    space: str
    combine: Combine = "best"


Term = PhotoTerm | ProductTerm | VectorTerm


def search_term(
    inputs: Sequence[Photo],
    space: str = "",
    box: Sequence[float] | None = None,
    combine: str = "best",
    looks: Collection[str] = (),
) -> PhotoTerm | VectorTerm:
    """Converts the arguments of a search to a term: floating-point arrays are vectors, all else are photos.

    Args:
        inputs: photos of one thing; or one array of vectors, (dim,) or (q, dim).
        space: the feature space of vectors.
        box: left, top, right and bottom of the part of each photo to search with, each between 0 and 1.
        combine: `best` or `mean`, see `Combine`.
        looks: names of further views of each photo, see `QueryView`.

    Raises:
        UsageError: an argument has a wrong type, shape or value, or a file cannot be read.
    """
    if not inputs:
        raise UsageError("no photo is given; pass bytes, a path or an array")
    if combine not in get_args(Combine):
        raise UsageError(f"combine is {combine!r}; choose one of: {', '.join(get_args(Combine))}")
    how = cast(Combine, combine)
    if any(isinstance(one, np.ndarray) and np.issubdtype(one.dtype, np.floating) for one in inputs):
        if len(inputs) > 1 or box is not None or looks:
            raise UsageError("vectors are searched alone: pass one array, (dim,) or (q, dim), without box and looks")
        return VectorTerm(query_vectors(inputs[0], space), space, how)
    unknown = [look for look in looks if look not in list(QueryView)]
    if unknown or isinstance(looks, str):
        raise UsageError(f"looks is {looks!r}; give a list of some of: {', '.join(QueryView)}")
    photos = tuple(read_photo(one) for one in inputs)
    return PhotoTerm(photos, WHOLE if box is None else read_box(box), how, tuple(map(QueryView, looks)))


def query_vectors(vectors: object, space: str) -> np.ndarray:
    """Checks vectors of a space, an array of numbers (dim,) or (q, dim), and converts them to float32 (q, dim).

    Raises:
        UsageError: the space is missing, or the array has another shape or type, or holds NaN, infinity or a number
            beyond float32.
    """
    if not space:
        raise UsageError("vectors need space=, the feature space that they are of, such as alexnet.fc6@1f3a9c02")
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinity, and is refused below
            rows = np.atleast_2d(np.asarray(vectors, np.float32))
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"vectors cannot be read as numbers of one length: {error}") from None
    if rows.ndim != 2 or not rows.size:
        raise UsageError(f"vectors have the shape {rows.shape}; give (dim,) or (q, dim)")
    finite = np.isfinite(rows)
    if not finite.all():
        number, place = np.argwhere(~finite)[0]
        value = np.atleast_2d(np.asarray(vectors, object))[number, place]
        raise UsageError(
            f"vector {number + 1} of {len(rows)} holds {value} at place {place}; give finite numbers within float32 "
            f"(up to {np.finfo(np.float32).max:.1e}), without NaN or infinity"
        )
    return rows


def read_photo(photo: Photo) -> bytes:
    """The file content of a photo; pixels become a PNG.

    Raises:
        UsageError: the type or shape is none of a photo, or the file cannot be read.
    """
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            raise UsageError(
                f"an array of {photo.dtype} {photo.shape} is no photo and no vector; give uint8 (h, w, 3) "
                "with red, green and blue, or floating-point vectors with space="
            )
        return encode_png(photo)
    if not isinstance(photo, str | Path):
        raise UsageError(f"a photo of type {type(photo).__name__} cannot be read; pass bytes, a path or an array")
    try:
        return Path(photo).read_bytes()
    except OSError as error:
        raise UsageError(f"photo {photo}: {error.strerror}; name a file that can be read") from None


def read_box(box: Sequence[float | str]) -> Box:
    """Converts left, top, right and bottom to a box.

    Raises:
        UsageError: they are not four numbers.
    """
    try:
        left, top, right, bottom = map(float, box)
    except (TypeError, ValueError):
        raise UsageError(f"box is {box!r:.80}; give left, top, right, bottom, each between 0 and 1") from None
    return left, top, right, bottom
