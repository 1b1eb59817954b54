"""The cost of a query's photos, judged by their headers, so that costly queries do not hold up the others."""

from likeness.core.settings import Limits
from likeness.images.image import WHOLE, BadImage, read_header
from likeness.images.query_views import QueryView, count_views
from likeness.serving.query_encoder import PhotoError
from likeness.serving.query_terms import PhotoTerm

_MOST_PIXELS, _MOST_PASSES = 2_000_000, 4
"""Beyond these a query is costly: some 50 ms of decoding, and of EfficientNet-Lite0, on one core."""
_JPEG_SHARE = 12
"""A JPEG that is decoded at a reduced size takes a twelfth of the time of other formats, for each of its scans."""
_START_OF_SCAN = b"\xff\xda"


def is_costly(term: PhotoTerm, limits: Limits) -> bool:
    """Whether photos take long to decode or to encode, by formats, pixels and views.

    Raises:
        PhotoError: a photo is over the limits, or none.
    """
    decodes, pixels = 2 if QueryView.WHOLE in term.looks else 1, 0.0
    for number, photo in enumerate(term.photos, 1):
        try:
            pixels += decodes * _pixels_to_decode(photo, term.box == WHOLE, limits)
        except BadImage as bad:
            raise PhotoError.of(bad, number, len(term.photos)) from None
    passes = len(term.photos) * (1 + count_views(term.looks))
    return pixels > _MOST_PIXELS or passes > _MOST_PASSES


def _pixels_to_decode(photo: bytes, whole: bool, limits: Limits) -> float:
    """The pixels of a photo, weighted by the time that one of its format takes."""
    header = read_header(photo, limits)
    pixels = header.width * header.height
    if header.format == "TIFF":  # has too many kinds of compression to tell
        return max(pixels, _MOST_PIXELS + 1)
    if header.format in ("JPEG", "MPO"):
        scans = max(1, photo.count(_START_OF_SCAN))
        return pixels * scans / _JPEG_SHARE if whole else pixels * scans
    return pixels
