"""Decoding and preprocessing: encoded photos in, RGB pixels or a named reason of failure out.   [Pillow]

Jobs and the service share it.
"""

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
# Pillow warns of odd metadata; set once, because `catch_warnings` is not thread-safe
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAX_ASPECT, _END_OF_JPEG = 8, b"\xff\xd9"


class BadImage(Exception):
    """One photo that cannot be used, and why: a row of the failure ledger, never the end of a run."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail[:500]


Box = tuple[float, float, float, float]
"""A part of an upright photo: left, top, right and bottom, each between 0 and 1."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Header:
    """A photo's format, and its width and height in pixels as stored (before EXIF rotation)."""

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
    Resize and CenterCrop do; `(pixel / scale - mean) / std` is applied inside the network. `shape`: with `squash` both
    sides are resized to `resize` before the crop; with `pad` nothing is cropped: the longer side becomes `crop`, and
    the rest is filled with the mean colour. `views` is test-time augmentation: the vector is the mean over the photo
    and its mirror image (`flip`), or over the centre and four corner crops of `resize` x `resize` and their mirror
    images (`ten`, Krizhevsky et al. 2012).
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
    def fill_colour(self) -> tuple[int, int, int]:
        """The mean colour, RGB from 0 to 255; fills what `pad` adds."""
        red, green, blue = (round(mean * self.scale) for mean in self.mean)
        return red, green, blue

    @property
    def side(self) -> int:
        """Side in pixels of the square that the network, or its `ten` views, is cut from."""
        return self.resize if self.views == "ten" else self.crop


def read_header(data: bytes, limits: Limits) -> Header:
    """Reads a photo's header, and checks it against the limits without decoding.

    Raises:
        BadImage: empty, too_large_bytes, not_an_image or too_many_pixels.
    """
    with _open(data, limits) as image:
        return Header(image.format or "", image.width, image.height)


def decode(data: bytes, limits: Limits, min_side: int = 0) -> Image.Image:
    """Decodes a photo to upright RGB: EXIF rotation applied, first frame, transparency on white.

    Args:
        data: the encoded photo.
        limits: what it may cost.
        min_side: pixels that the shorter side needs: a JPEG is decoded at a half, quarter or eighth of its size while
            twice as many remain; 0 decodes in full.

    Raises:
        BadImage: as `read_header`, or undecodable.
    """
    with _open(data, limits) as image:
        try:
            if min_side and image.format in ("JPEG", "MPO"):
                image.draft("RGB", (2 * min_side, 2 * min_side))
            image.load()
            # not by ImageOps.exif_transpose, which rewrites the EXIF block, and fails at unrelated damaged tags
            method = _TRANSPOSES.get(_orientation(image))
            return _rgb(image if method is None else image.transpose(method))
        except MemoryError:
            raise BadImage("undecodable", "out of memory") from None
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error ...
            raise BadImage("undecodable", str(error) or type(error).__name__) from None


def encode_image(image: Image.Image, format: str, **options: int) -> bytes:
    """Encodes an image in one of Pillow's formats, with options of that format."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes pixels, RGB uint8 (h, w, 3), as the bytes of a PNG, which loses nothing."""
    return encode_image(Image.fromarray(pixels, "RGB"), "PNG", compress_level=1)


def preprocess(data: bytes, box: Box, preprocessing: Preprocessing, limits: Limits) -> np.ndarray:
    """Decodes the part of a photo in a box, and resizes and crops it to uint8 (side, side, 3).

    Raises:
        BadImage: the photo or the box cannot be used.
    """
    share = min(box[2] - box[0], box[3] - box[1])
    min_side = math.ceil(preprocessing.resize / share) if share > 0 else 0
    return resize_and_crop(crop_to_box(decode(data, limits, min_side), box), preprocessing)


def crop_to_box(photo: Image.Image, box: Box) -> Image.Image:
    """Crops a photo to a box; at least one pixel remains.

    Raises:
        BadImage: bad_box.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadImage("bad_box", f"{left}, {top}, {right}, {bottom} are not left, top, right, bottom between 0 and 1")
    if box == WHOLE:
        return photo
    width, height = photo.size
    x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
    return photo.crop((x, y, max(x + 1, round(right * width)), max(y + 1, round(bottom * height))))


def resize_and_crop(photo: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes and crops a decoded photo, to uint8 (side, side, 3)."""
    (wide, high), (left, top) = crop_geometry(*photo.size, preprocessing)
    side, resampling = preprocessing.side, Image.Resampling[preprocessing.interpolation.upper()]
    if preprocessing.shape == "pad":
        square = Image.new("RGB", (side, side), preprocessing.fill_colour)
        square.paste(photo.resize((wide, high), resampling), (-left, -top))
        return np.asarray(square)
    # only the crop is computed: a panorama of 1 x 10,000 would else be stretched to millions of pixels
    across, down = photo.width / wide, photo.height / high
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return np.asarray(photo.resize((side, side), resampling, box=box))


def crop_geometry(width: int, height: int, preprocessing: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size that a photo is resized to, and left and top of the square in it; negative where it is padded."""
    if preprocessing.shape == "pad":
        share = preprocessing.side / max(height, width)
        size = max(1, round(width * share)), max(1, round(height * share))
        return size, (-((preprocessing.side - size[0]) // 2), -((preprocessing.side - size[1]) // 2))
    shorter = min(height, width)
    size = (preprocessing.resize * width // shorter, preprocessing.resize * height // shorter)
    if preprocessing.shape == "squash":
        size = (preprocessing.resize, preprocessing.resize)
    return size, (round((size[0] - preprocessing.side) / 2), round((size[1] - preprocessing.side) / 2))


def exif_orientation(data: bytes, limits: Limits) -> int:
    """The EXIF orientation, 1 to 8, of a JPEG that all decoders decode alike; 0 for any other photo.

    0 stands for other formats, colours other than grey and YCbCr, truncated photos, photos over the limits, and photos
    so long and narrow that resizing all of them is a waste.
    """
    try:
        with _open(data, limits) as image:
            plain = image.format == "JPEG" and image.mode in ("RGB", "L") and image.info.get("adobe_transform", 1) == 1
            narrow = max(image.size) > _MAX_ASPECT * min(image.size)
            return _orientation(image) if plain and not narrow and data.endswith(_END_OF_JPEG) else 0
    except BadImage:
        return 0


def _open(data: bytes, limits: Limits) -> Image.Image:
    if not data:
        raise BadImage("empty", "0 bytes")
    if len(data) > limits.max_bytes:
        raise BadImage("too_large_bytes", f"{len(data)} bytes, {limits.section}.max_bytes is {limits.max_bytes}")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        detail = "no known image format" if "cannot identify" in str(error) else str(error)
        raise BadImage("not_an_image", detail) from None
    if not 1 <= image.width * image.height <= limits.max_pixels:
        most = f"{limits.section}.max_pixels is {limits.max_pixels}"
        raise BadImage("too_many_pixels", f"{image.width} x {image.height}, {most}")
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where the EXIF block is damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in _TRANSPOSES else 1
    except Exception:  # a damaged block can raise anything
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
