"""Looks of a query photo: turned, in parts, sharpened. An image is as near as to the nearest of them.   [Pillow]

A photo that was turned, cut or blurred on its way here is found again by one of them; each costs a pass of the network.
"""

from collections.abc import Collection
from enum import StrEnum

import numpy as np
from PIL import Image, ImageFilter

from likeness.images import Box


class Look(StrEnum):
    """By 90, 180 and 270 degrees; three fifths from each side, and the middle; sharpened twice."""

    TURNED = "turned"
    PARTS = "parts"
    SHARP = "sharp"


_PARTS: tuple[Box, ...] = (
    (0.0, 0.0, 1.0, 0.6),
    (0.0, 0.4, 1.0, 1.0),
    (0.0, 0.0, 0.6, 1.0),
    (0.4, 0.0, 1.0, 1.0),
    (0.15, 0.15, 0.85, 0.85),
)
_SHARP = ((2, 150), (4, 250))
"""Radius in pixels of what the network is given, and percent."""


def boxes(box: Box, looks: Collection[Look]) -> list[Box]:
    """The parts of a part of a photo that are looked at as well."""
    if Look.PARTS not in looks:
        return []
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    return [(left + a * wide, top + b * high, left + c * wide, top + d * high) for a, b, c, d in _PARTS]


def pictures(image: np.ndarray, looks: Collection[Look]) -> list[np.ndarray]:
    """What is made of a picture as the network takes it, uint8 (side, side, 3) each."""
    made = list[np.ndarray]()
    if Look.TURNED in looks:
        made += [np.rot90(image, times) for times in (1, 2, 3)]
    if Look.SHARP in looks:
        whole = Image.fromarray(image)
        made += [np.asarray(whole.filter(ImageFilter.UnsharpMask(radius, much, 0))) for radius, much in _SHARP]
    return made
