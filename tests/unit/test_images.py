"""The decoder: every format and mode as a person would see it, and a named reason for everything else."""

import io
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from likeness.core.settings import Limits
from likeness.images.image import SUFFIXES, BadImage, Preprocessing, decode, read_header, resize_and_crop

LIMITS = Limits()
HOW = Preprocessing(256, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width: int = 40, height: int = 24) -> Image.Image:
    """A picture without any symmetry, smooth enough for JPEG."""
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([x * 255 / width, y * 255 / height, (x + 2 * y) * 255 / (width + 2 * height)], axis=2)
    return Image.fromarray(planes.astype(np.uint8))


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG of 8-bit grey that declares any size, whatever its data holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def pixels(data: bytes, limits: Limits = LIMITS) -> np.ndarray:
    """What is decoded, uint8 (height, width, 3)."""
    return np.asarray(decode(data, limits))


def reason(data: bytes, limits: Limits = LIMITS, header_too: bool = True) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, limits)
    if header_too:
        with pytest.raises(BadImage) as header:
            read_header(data, limits)
        assert header.value.reason == caught.value.reason
    return caught.value.reason


# -- what is no photo


def test_an_empty_file() -> None:
    assert reason(b"") == "empty"


def test_text_named_jpg() -> None:
    assert reason(b"This is not a photo. " * 100) == "not_an_image"


@pytest.mark.parametrize(
    "data", [b"%PDF-1.7\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"P6 2 2 255 " + b"x" * 12]
)
def test_formats_that_are_not_opened(data: bytes) -> None:
    assert reason(data) == "not_an_image"


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_truncated_jpeg(photo: bytes, share: float) -> None:
    assert reason(photo[: int(len(photo) * share)], header_too=False) == "undecodable"


@pytest.mark.parametrize("length", [1, 2, 3, 10, 20])
def test_a_jpeg_that_ends_in_its_header(photo: bytes, length: int) -> None:
    assert reason(photo[:length]) == "not_an_image"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_truncated(kind: str) -> None:
    data = encoded(scene(200, 200), kind)
    assert reason(data[: len(data) // 2], header_too=False) in ("undecodable", "not_an_image")


def test_too_many_bytes_are_told_unopened(photo: bytes) -> None:
    assert reason(photo, Limits(max_bytes=len(photo) - 1)) == "too_large_bytes"
    assert pixels(photo, Limits(max_bytes=len(photo))).ndim == 3


def test_a_small_file_of_900_million_pixels_is_not_unpacked() -> None:
    bomb = png(30_000, 30_000, b"\0" * 30_001 * 20)
    assert len(bomb) < 2000
    begun = time.perf_counter()
    assert reason(bomb) == "too_many_pixels"
    assert time.perf_counter() - begun < 0.2


def test_the_limit_of_pixels_is_exact() -> None:
    data = png(30, 20, b"\0" * 31 * 20)
    assert pixels(data, Limits(max_pixels=600)).shape == (20, 30, 3)
    assert reason(data, Limits(max_pixels=599)) == "too_many_pixels"


def test_floating_point_pixels_have_no_known_range() -> None:
    data = encoded(Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)), "TIFF")
    assert reason(data, header_too=False) == "undecodable"


def test_a_bad_image_survives_the_way_between_processes() -> None:
    import pickle  # what multiprocessing and Spark use for exceptions

    there = pickle.loads(pickle.dumps(BadImage("empty", "0 bytes")))
    assert (there.reason, there.detail, str(there)) == ("empty", "0 bytes", "empty: 0 bytes")
    assert len(BadImage("x", "y" * 10_000).detail) == 500


# -- what is one


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("GIF", 30), ("WEBP", 12), ("JPEG", 10), ("MPO", 10)]
)
def test_every_format(kind: str, tolerance: int) -> None:
    truth = np.asarray(scene())
    data = encoded(scene(), kind, quality=95) if kind in ("WEBP", "JPEG", "MPO") else encoded(scene(), kind)
    decoded = pixels(data)
    assert decoded.dtype == np.uint8
    assert decoded.shape == truth.shape
    assert np.abs(decoded.astype(int) - truth).max() <= tolerance
    header = read_header(data, LIMITS)
    assert (header.width, header.height) == (40, 24)
    assert header.format in ("JPEG", "MPO") if kind == "MPO" else header.format == kind


def test_every_suffix_is_lower_case_with_a_dot() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in SUFFIXES)


def test_an_mpo_is_its_first_picture() -> None:
    other = Image.new("RGB", (40, 24), "red")
    data = encoded(scene(), "MPO", save_all=True, append_images=[other], quality=95)
    assert read_header(data, LIMITS).format == "MPO"
    assert np.abs(pixels(data).astype(int) - np.asarray(scene())).max() <= 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_are_scaled_not_clipped(kind: str) -> None:
    deep = np.array([[0, 255, 256, 257, 32768, 65535]], np.uint16)
    shades = pixels(encoded(Image.fromarray(deep), kind))
    assert shades.tolist() == [[[v, v, v] for v in (0, 0, 1, 1, 128, 255)]]


def test_grey_and_black_and_white() -> None:
    grey = Image.fromarray(np.array([[0, 100, 255]], np.uint8))
    assert pixels(encoded(grey, "PNG")).tolist() == [[[0, 0, 0], [100, 100, 100], [255, 255, 255]]]
    black = grey.point(lambda v: 255 * (v > 50)).convert("1")
    assert pixels(encoded(black, "PNG"))[0, :, 1].tolist() == [0, 255, 255]


def test_transparency_is_laid_on_white() -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 128]]], np.uint8)
    assert pixels(encoded(Image.fromarray(rgba), "PNG")).tolist() == [[[200, 0, 0], [255] * 3, [227, 127, 127]]]
    la = np.array([[[100, 255], [100, 0], [100, 128]]], np.uint8)
    assert pixels(encoded(Image.fromarray(la), "PNG")).tolist() == [[[100] * 3, [255] * 3, [177] * 3]]


def test_transparency_of_a_webp_is_laid_on_white() -> None:
    rgba = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    assert (pixels(encoded(rgba, "WEBP", lossless=True)) == 255).all()


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\x80"])
def test_a_palette_with_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 0, 0, 0])
    image.putdata([0, 1, 2])
    first, second, third = pixels(encoded(image, "PNG", transparency=transparency))[0].tolist()
    assert (first, second) == ([10, 20, 30], [255, 255, 255])
    assert third == ([0, 0, 0] if transparency == 1 else [127, 127, 127])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour(mode: str) -> None:
    image = Image.new(mode, (2, 1))
    image.putpixel((1, 0), 9 if mode == "L" else (9, 9, 9))
    data = encoded(image, "PNG", transparency=9 if mode == "L" else (9, 9, 9))
    assert pixels(data).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_cmyk() -> None:
    colours = pixels(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(colours.astype(int) - (255, 0, 0)).max() <= 4  # no cyan, all magenta and yellow: red


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red", "green")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    decoded = pixels(data)
    assert decoded.shape == (8, 8, 3)
    assert np.abs(decoded.astype(int) - (0, 0, 255)).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_upright(orientation: int, kind: str) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # EXIF 6: the camera's top is at the right, a viewer turns it by 270 degrees
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = scene().transpose(undo[orientation]) if orientation in undo else scene()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"PNG": {}, "TIFF": {}, "JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    decoded = pixels(encoded(stored, kind, exif=exif, **options))
    assert decoded.shape == (24, 40, 3)
    assert np.abs(decoded.astype(int) - np.asarray(scene())).max() <= 6


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    block = b"Exif\0\0" + block
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


@pytest.mark.parametrize(
    "block",
    [
        b"MM\0*\xff\xff\xff\xff" + b"\x12" * 30,
        b"XX\0*" + bytes(30),
        b"",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",  # an orientation of 9
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01x\0\0\0\0\0\0\0",  # or of "x"
    ],
)
def test_a_broken_exif_block_leaves_the_photo_as_it_is(block: bytes) -> None:
    plain = encoded(scene(), "JPEG", quality=95)
    assert np.array_equal(pixels(with_exif(plain, block)), pixels(plain))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_block_that_is_no_exif_leaves_the_photo_as_it_is(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(scene(), kind, exif=b"Exif\0\0XX no EXIF at all" + bytes(30), **options)
    assert np.array_equal(pixels(data), np.asarray(scene()))


def test_a_broken_tag_beside_the_orientation_does_not_matter() -> None:
    resolution, turn = b"\x01\x1a\0\x02\0\0\0\x02x\0\0\0", b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    plain = encoded(scene().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, subsampling=0)
    decoded = pixels(with_exif(plain, b"MM\0*\0\0\0\x08\0\x02" + resolution + turn + bytes(4)))
    assert decoded.shape == (24, 40, 3)
    assert np.abs(decoded.astype(int) - np.asarray(scene())).max() <= 6


# -- the way to the network's input


def test_a_jpeg_decoded_in_draft_is_close_to_the_full_one(photo: bytes) -> None:
    source = decode(photo, LIMITS)
    large = encoded(source.resize((source.width * 6, source.height * 6)), "JPEG", quality=92)
    full, draft = decode(large, LIMITS), decode(large, LIMITS, min_side=HOW.resize)
    assert min(full.size) == 4 * min(draft.size), "nothing was saved"
    assert min(draft.size) >= 2 * HOW.resize
    difference = np.abs(resize_and_crop(full, HOW).astype(int) - resize_and_crop(draft, HOW))
    assert difference.mean() < 1.5


@pytest.mark.parametrize("size", [(300, 400), (511, 700), (512, 512), (1025, 1600), (5000, 520)])
def test_a_draft_keeps_enough_of_the_shorter_side(size: tuple[int, int]) -> None:
    data = encoded(scene(*size), "JPEG")
    kept = decode(data, LIMITS, min_side=256).size
    assert min(kept) >= min(512, *size)
    assert kept[0] / kept[1] == pytest.approx(size[0] / size[1], rel=0.01)


def test_only_jpegs_are_decoded_in_draft() -> None:
    assert decode(encoded(scene(900, 800), "PNG"), LIMITS, min_side=64).size == (900, 800)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_fit_is_torchvisions_resize_and_crop(sample: Path, interpolation: Any) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    how = Preprocessing(256, 224, HOW.mean, HOW.std, interpolation=interpolation)
    for path in sorted(sample.glob("*/*.jpg"))[::12]:
        photo = decode(path.read_bytes(), LIMITS)
        resized = F.resize(photo, [256], InterpolationMode(interpolation), antialias=True)
        truth = np.asarray(F.center_crop(resized, [224])).astype(int)
        fitted = resize_and_crop(photo, how)
        assert np.abs(fitted - truth).max() <= 2
        assert np.abs(fitted - truth).mean() < 0.3


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1), (1, 65_535), (2, 3), (224, 224), (256, 1025)])
def test_fit_of_any_shape(size: tuple[int, int]) -> None:
    begun = time.perf_counter()
    fitted = resize_and_crop(Image.new("RGB", (size[1], size[0]), (77, 77, 77)), HOW)
    assert (fitted.shape, fitted.dtype) == ((224, 224, 3), np.uint8)
    assert (fitted == 77).all()
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize("size", [(100, 1001), (1001, 100)])
def test_fit_shows_the_middle(size: tuple[int, int]) -> None:
    ramp = np.zeros((*size, 3), np.uint8)
    longer = size.index(1001)
    place = np.abs(np.arange(1001) - 500).clip(0, 255).astype(np.uint8)
    ramp[:] = place[None, :, None] if longer == 1 else place[:, None, None]
    fitted = resize_and_crop(Image.fromarray(ramp), HOW).astype(int)
    assert np.abs(fitted - (fitted[:, ::-1] if longer == 1 else fitted[::-1])).max() <= 1  # as symmetric as the ramp
    assert fitted.min() <= 1


@given(st.integers(1, 400), st.integers(1, 400))
@settings(max_examples=40)
def test_fit_gives_the_networks_shape(height: int, width: int) -> None:
    assert resize_and_crop(Image.new("RGB", (width, height)), HOW).shape == (224, 224, 3)


# -- it never raises anything else, and never hangs


SMALL = {kind: encoded(scene(64, 48), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")} | {
    "PALETTE": encoded(scene(64, 48).quantize(16), "PNG"),
    "ANIMATED": encoded(scene(), "GIF", save_all=True, append_images=[scene().rotate(90)]),
}


def outcome(data: bytes) -> None:
    begun, failure = time.perf_counter(), ""
    try:
        photo = decode(data, Limits(max_pixels=1_000_000), min_side=32)
    except BadImage as bad:
        failure = bad.reason
    else:
        assert photo.mode == "RGB"
        resize_and_crop(photo, HOW)
    assert failure in ("", "empty", "not_an_image", "undecodable", "too_many_pixels")
    assert time.perf_counter() - begun < 10


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_random_bytes(data: bytes) -> None:
    outcome(data)


@given(st.sampled_from(sorted(SMALL)), st.binary(max_size=200))
@settings(max_examples=100)
def test_random_bytes_after_a_true_beginning(kind: str, data: bytes) -> None:
    outcome(SMALL[kind][:24] + data)


@given(
    st.sampled_from(sorted(SMALL)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=20),
    st.floats(0, 1),
    st.booleans(),
)
@settings(max_examples=400)
def test_random_corruption(kind: str, changes: list[tuple[float, int]], cut: float, head: bool) -> None:
    data = bytearray(SMALL[kind])
    for place, value in changes:
        data[int(place * (min(200, len(data)) if head else len(data)))] = value
    outcome(bytes(data[: int(len(data) * max(cut, 0.1))] if cut < 0.5 else data))


def test_a_real_photo_corrupted(photo: bytes, rng: np.random.Generator) -> None:
    for _ in range(60):
        data = np.frombuffer(photo, np.uint8).copy()
        places = rng.integers(0, len(data) if rng.random() < 0.5 else 600, rng.integers(1, 30))
        data[places] = rng.integers(0, 256, len(places))
        outcome(data.tobytes())


def test_decoding_in_threads_leaves_the_warnings_as_they_are(photo: bytes) -> None:
    # `warnings.catch_warnings` in threads leaves one thread's filters to the others, and for ever
    before = list(warnings.filters)
    barrier = threading.Barrier(8)

    def work(_: int) -> None:
        barrier.wait()
        for _ in range(12):
            decode(photo, LIMITS, min_side=64)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert list(warnings.filters) == before
