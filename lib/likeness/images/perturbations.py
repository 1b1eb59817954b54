"""Perturbations of query photos, to measure robustness: crops, rotations, overlays, blur. Bytes in, bytes out.

[Pillow]
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from likeness.core.settings import Limits
from likeness.images.image import decode, encode_image

_QUALITY, _LOW_QUALITY = 90, 20
"""Of JPEGs."""
_WORD = "SAMPLE"

Perturbation = Callable[[Image.Image], Image.Image]


def _cropped(share: float, corner: bool = False) -> Perturbation:
    def change(photo: Image.Image) -> Image.Image:
        wide, high = round(photo.width * share), round(photo.height * share)
        left, top = (0, 0) if corner else ((photo.width - wide) // 2, (photo.height - high) // 2)
        return photo.crop((left, top, left + wide, top + high))

    return change


def _rotated(degrees: int) -> Perturbation:
    """Rotates anticlockwise; new corners take the colour of the nearest edge."""

    def change(photo: Image.Image) -> Image.Image:
        if degrees % 90 == 0:
            return photo.rotate(degrees, expand=True)
        margin = max(photo.size) // 2
        padding = ((margin, margin), (margin, margin), (0, 0))
        padded = Image.fromarray(np.pad(np.asarray(photo), padding, mode="edge"))
        rotated = padded.rotate(degrees, Image.Resampling.BICUBIC)
        return rotated.crop((margin, margin, margin + photo.width, margin + photo.height))

    return change


def _text(photo: Image.Image) -> Image.Image:
    """Writes a half-transparent white word across the photo, a sixth of its height."""
    overlay = Image.new("RGBA", photo.size)
    font = ImageFont.load_default(max(8, photo.height // 6))
    middle = (photo.width / 2, photo.height / 2)
    ImageDraw.Draw(overlay).text(middle, _WORD, fill=(255, 255, 255, 128), font=font, anchor="mm")
    return Image.alpha_composite(photo.convert("RGBA"), overlay).convert("RGB")


def _bar(photo: Image.Image) -> Image.Image:
    """Draws a black bar over the middle fifth of the photo's height."""
    barred = photo.copy()
    ImageDraw.Draw(barred).rectangle((0, photo.height * 2 // 5, photo.width, photo.height * 3 // 5), fill="black")
    return barred


def _blurred(photo: Image.Image) -> Image.Image:
    """Gaussian blur; its standard deviation is a hundredth of the shorter side."""
    return photo.filter(ImageFilter.GaussianBlur(min(photo.size) / 100))


PERTURBATIONS: Mapping[str, Perturbation] = {
    "as it is": lambda photo: photo,
    "mirrored": lambda photo: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped to 80 %": _cropped(0.8),
    "cropped to 60 %": _cropped(0.6),
    "cropped to a corner of 70 %": _cropped(0.7, corner=True),
    "rotated by 15 degrees": _rotated(15),
    "rotated by 90 degrees": _rotated(90),
    "rotated by 180 degrees": _rotated(180),
    "translucent text": _text,
    "opaque bar": _bar,
    "grey": lambda photo: photo.convert("L").convert("RGB"),
    "blurred": _blurred,
    "compressed again": lambda photo: Image.open(io.BytesIO(encode_image(photo, "JPEG", quality=_LOW_QUALITY))),
}
"""Changes that photos typically go through before a search, by name."""


def perturb(photo: bytes, name: str, limits: Limits) -> bytes:
    """Applies one of PERTURBATIONS to an encoded photo; returns a JPEG.

    Raises:
        BadImage: the photo cannot be decoded.
    """
    return encode_image(PERTURBATIONS[name](decode(photo, limits)), "JPEG", quality=_QUALITY)
