"""Bytes to an RGB array, or the reason why not. The one decoder of jobs and service.   [Pillow]"""

import io
import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import ExifTags, Image

from likeness.core.settings import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of what is opened; an MPO (several JPEGs in one file) opens as its first JPEG."""
SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))

Image.MAX_IMAGE_PIXELS = None  # `Limits.max_pixels` decides, for jobs and service alike
# Pillow warns of odd metadata; the pixels decide. Set once, for `catch_warnings` is not for the decoders' threads
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LONG, _END_OF_JPEG = 8, b"\xff\xd9"
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class BadImage(Exception):
    """Why one photo cannot be used: a row of the failure ledger, never the end of a run."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail[:500]


Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of a photo as a person sees it, each between 0 and 1."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Header:
    """What a photo's header says: format, width and height in pixels as stored (before EXIF rotation)."""

    format: str
    width: int
    height: int


Shape = Literal["centre", "squash", "pad"]
SHAPES = get_args(Shape)
Views = Literal["single", "flip", "ten"]
VIEWS = get_args(Views)


@dataclass(frozen=True)
class Preprocessing:
    """How a decoded photo becomes the network's input; a part of the feature space.

    The shorter side is resized to `resize` pixels, then the centre `crop` x `crop` is cut out, as torchvision's
    Resize and CenterCrop do; `(pixel / scale - mean) / std` is applied inside the network. With `squash` both sides
    become `resize` before; with `pad` nothing is cut off: the longer side becomes `crop`, beside it is the mean colour.
    The vector is the mean over `views`: the photo and its mirror image (`flip`), or the middle and the four corners of
    `resize` x `resize` and their mirror images (`ten`, Krizhevsky et al. 2012).
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 255.0
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"
    shape: Shape = "centre"
    views: Views = "single"

    @property
    def colour(self) -> tuple[int, int, int]:
        """The mean colour, RGB of 0 to 255."""
        red, green, blue = (round(mean * self.scale) for mean in self.mean)
        return red, green, blue

    @property
    def side(self) -> int:
        """Pixels of a side of what the network is given."""
        return self.resize if self.views == "ten" else self.crop


def read_header(data: bytes, limits: Limits) -> Header:
    """Checks what can be checked without decoding.

    Raises:
        BadImage: empty, too_large_bytes, not_an_image or too_many_pixels.
    """
    with _open(data, limits) as image:
        return Header(image.format or "", image.width, image.height)


def decode(data: bytes, limits: Limits, enough: int = 0) -> Image.Image:
    """Decodes a photo as a person would see it: upright, first frame, transparency on white.

    Args:
        data: the encoded photo.
        limits: what it may cost.
        enough: pixels the shorter side must keep; a JPEG is decoded at a half, quarter or eighth of its
            size while twice that remains. 0 decodes in full.

    Returns:
        Its pixels, of mode RGB.

    Raises:
        BadImage: as `read_header`, or undecodable.
    """
    with _open(data, limits) as image:
        try:
            if enough and image.format in ("JPEG", "MPO"):
                image.draft("RGB", (2 * enough, 2 * enough))
            image.load()
            return _rgb(_upright(image))
        except MemoryError:
            raise BadImage("undecodable", "out of memory") from None
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error ...
            raise BadImage("undecodable", str(error) or type(error).__name__) from None


def prepared(data: bytes, box: Box, how: Preprocessing, limits: Limits) -> np.ndarray:
    """The part of an encoded photo in a box as a network takes it, uint8 (side, side, 3).

    Raises:
        BadImage: why it cannot be had.
    """
    share = min(box[2] - box[0], box[3] - box[1])
    enough = math.ceil(how.resize / share) if share > 0 else 0
    return fit(cut(decode(data, limits, enough), box), how)


def cut(photo: Image.Image, box: Box) -> Image.Image:
    """The part of a photo in a box; at least one pixel of it.

    Raises:
        BadImage: the box is none.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadImage("bad_box", f"{left}, {top}, {right}, {bottom} are not left, top, right, bottom between 0 and 1")
    if box == WHOLE:
        return photo
    width, height = photo.size
    x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
    return photo.crop((x, y, max(x + 1, round(right * width)), max(y + 1, round(bottom * height))))


def fit(photo: Image.Image, how: Preprocessing) -> np.ndarray:
    """Resizes and crops a decoded photo, to uint8 (side, side, 3)."""
    (wide, high), (left, top) = placed(*photo.size, how)
    side, resampling = how.side, _FILTERS[how.interpolation]
    if how.shape == "pad":
        square = Image.new("RGB", (side, side), how.colour)
        square.paste(photo.resize((wide, high), resampling), (-left, -top))
        return np.asarray(square)
    # only the crop is computed: a panorama of 1 x 10,000 would else be stretched to millions of pixels
    across, down = photo.width / wide, photo.height / high
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return np.asarray(photo.resize((side, side), resampling, box=box))


def placed(width: int, height: int, how: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """To which width and height a photo is resized, and where in it the square begins: left and top, below 0 to pad."""
    if how.shape == "pad":
        share = how.side / max(height, width)
        size = max(1, round(width * share)), max(1, round(height * share))
        return size, (-((how.side - size[0]) // 2), -((how.side - size[1]) // 2))
    shorter = min(height, width)
    size = (how.resize * width // shorter, how.resize * height // shorter)
    if how.shape == "squash":
        size = (how.resize, how.resize)
    return size, (round((size[0] - how.side) / 2), round((size[1] - how.side) / 2))


def orientation(data: bytes, limits: Limits) -> int:
    """The EXIF orientation, 1 to 8, of a JPEG that every decoder decodes alike; 0 of everything else.

    Everything else is other formats and colours than grey and YCbCr, photos that are cut off, and those with more
    pixels or bytes than the limits, or so long that a resize of all of it is a waste.
    """
    try:
        with _open(data, limits) as image:
            plain = image.format == "JPEG" and image.mode in ("RGB", "L") and image.info.get("adobe_transform", 1) == 1
            long = max(image.size) > _LONG * min(image.size)
            return _turn(image) if plain and not long and data.endswith(_END_OF_JPEG) else 0
    except BadImage:
        return 0


def _open(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise BadImage("empty", "0 bytes")
    if len(data) > limits.max_bytes:
        raise BadImage("too_large_bytes", f"{len(data)} bytes, limits.max_bytes is {limits.max_bytes}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        detail = "no known image format" if "cannot identify" in str(error) else str(error)
        raise BadImage("not_an_image", detail) from None
    pixels = image.width * image.height
    if pixels > limits.max_pixels or pixels < 1:
        size = f"{image.width} x {image.height}"
        raise BadImage("too_many_pixels", f"{size}, limits.max_pixels is {limits.max_pixels}")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says.

    Not by ImageOps.exif_transpose: it rewrites the block, and fails at a tag that has nothing to do with it.
    """
    turn = _TURNS.get(_turn(image))
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; a broken EXIF block leaves the photo as it is."""
    try:
        told = image.getexif().get(ExifTags.Base.Orientation)
        return told if told in _TURNS else 1
    except Exception:  # whatever the block holds
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
