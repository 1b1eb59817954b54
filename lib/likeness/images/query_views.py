"""Query views: a query photo rotated, uncropped or sharpened, each searched as well.   [Pillow]

The distance of an image is that to the nearest view, so that rotated, cropped or blurred copies are found. Each view
costs a forward pass of the network.
"""

from collections.abc import Collection
from enum import StrEnum

import numpy as np
from PIL import Image, ImageFilter

_SHARP = ImageFilter.UnsharpMask(radius=2, percent=400, threshold=0)
"""Applied to the network's input; chosen among five filters, see docs/decisions/020."""


class QueryView(StrEnum):
    """Views of a query photo: rotated by 90, 180 and 270 degrees; all of it, resized to a square; sharpened."""

    TURNED = "turned"
    WHOLE = "whole"
    SHARP = "sharp"


def count_views(views: Collection[QueryView]) -> int:
    """How many further pictures some views are."""
    return sum(3 if view is QueryView.TURNED else 1 for view in set(views))


def render_views(image: np.ndarray, views: Collection[QueryView]) -> list[np.ndarray]:
    """Renders the views of a preprocessed photo, uint8 (side, side, 3) each; `WHOLE` is left to the decoder."""
    rendered = list[np.ndarray]()
    if QueryView.TURNED in views:
        rendered += [np.rot90(image, times) for times in (1, 2, 3)]
    if QueryView.SHARP in views:
        rendered.append(np.asarray(Image.fromarray(image).filter(_SHARP)))
    return rendered
