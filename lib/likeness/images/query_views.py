"""Looks of a query photo: turned, whole, sharpened. An image is as near as to the nearest of them.   [Pillow]

A photo that was turned, cut or blurred on its way here is found again by one of them; each costs a pass of the network.
"""

from collections.abc import Collection
from enum import StrEnum

import numpy as np
from PIL import Image, ImageFilter

_SHARP = ImageFilter.UnsharpMask(radius=2, percent=400, threshold=0)
"""Of what the network is given; chosen among five, see docs/decisions/020."""


class QueryView(StrEnum):
    """By 90, 180 and 270 degrees; with nothing cut off, both sides made equal; sharpened."""

    TURNED = "turned"
    WHOLE = "whole"
    SHARP = "sharp"


def render_views(image: np.ndarray, looks: Collection[QueryView]) -> list[np.ndarray]:
    """What is made of a picture as the network takes it, uint8 (side, side, 3) each; `whole` is for the decoder."""
    made = list[np.ndarray]()
    if QueryView.TURNED in looks:
        made += [np.rot90(image, times) for times in (1, 2, 3)]
    if QueryView.SHARP in looks:
        made.append(np.asarray(Image.fromarray(image).filter(_SHARP)))
    return made
