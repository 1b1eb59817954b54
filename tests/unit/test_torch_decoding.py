"""Photos decoded by torch where the network runs: the same pixels, vectors and failures as by the processes."""

import io
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from likeness.core.errors import ServiceError
from likeness.core.settings import Extract, Limits
from likeness.images.image import WHOLE, BadImage, Preprocessing, exif_orientation, preprocess
from likeness.models.backbones import Space, resolve
from likeness.models.extracted_batch import ExtractedBatch
from likeness.models.extractor import Extractor
from likeness.models.runtimes import Machine, open_runtime
from likeness.models.runtimes.torch_any import TorchRuntime
from likeness.models.runtimes.torch_decoding import DeviceDecoder

LIMITS, MEAN = Limits(), (0.5, 0.25, 0.75)


@pytest.fixture(scope="module")
def jpegs(sample: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(sample.glob("*/*.jpg"))[::27]]


@pytest.fixture(scope="module")
def network(cache: str) -> TorchRuntime:
    return TorchRuntime(lite(), cache, 1)


def lite() -> Space:
    return resolve("efficientnet_lite0.pool")


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def never(_: bytes) -> "Future[np.ndarray]":
    raise AssertionError("a plain JPEG was decoded otherwise")


def by_pillow(data: bytes, how: Preprocessing) -> np.ndarray:
    return preprocess(data, WHOLE, how, LIMITS).astype(int)


@pytest.mark.parametrize("shape", ["centre", "squash", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_the_processes(jpegs: list[bytes], shape: Any, interpolation: Any) -> None:
    how = Preprocessing(256, 224, MEAN, MEAN, interpolation=interpolation, shape=shape)
    pixels, bad = DeviceDecoder(how, LIMITS, "cpu", never)(jpegs)
    assert (tuple(pixels.shape), str(pixels.dtype), bad) == ((len(jpegs), 224, 224, 3), "torch.uint8", {})
    for mine, data in zip(pixels.numpy(), jpegs, strict=True):
        assert np.abs(mine - by_pillow(data, how)).mean() < 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_photos_are_upright(jpegs: list[bytes], turn: int) -> None:
    how, exif = Preprocessing(256, 224, MEAN, MEAN, shape="squash"), Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    data = encoded(Image.open(io.BytesIO(jpegs[0])), exif=exif, quality=95)
    assert exif_orientation(data, LIMITS) == turn
    pixels, _ = DeviceDecoder(how, LIMITS, "cpu", never)([data])
    assert np.abs(pixels[0].numpy() - by_pillow(data, how)).mean() < 1


def damaged(jpeg: bytes) -> bytes:
    """A JPEG whose header is whole, and which no decoder can decode: without its quantization tables."""
    return jpeg.replace(b"\xff\xdb", b"\xff\xee")


def others(jpeg: bytes) -> dict[str, bytes]:
    """What is not left to the device, each for a reason of its own; the last fails there."""
    photo = Image.open(io.BytesIO(jpeg))
    return {
        "png": encoded(photo, "PNG"),
        "cmyk": encoded(photo.convert("CMYK")),
        "long": encoded(photo.resize((1800, 200))),
        "cut off": jpeg[: len(jpeg) // 2],
        "text": b"text",
        "nothing": b"",
        "damaged": damaged(jpeg),
    }


def run(extractor: Extractor, photos: dict[str, bytes]) -> ExtractedBatch:
    """All batches in one."""
    whole, vectors = ExtractedBatch(), []
    for batch in extractor.run(photos.items()):
        whole.keys += batch.keys
        whole.failures += batch.failures
        vectors.append(batch.vectors)
    whole.vectors = np.concatenate(vectors)
    return whole


def test_vectors_and_failures_are_those_of_the_processes(jpegs: list[bytes], network: TorchRuntime) -> None:
    plain = {str(number): data for number, data in enumerate(jpegs)}
    # a damaged photo in the first place of a batch, and one in the midst of others
    source = {**others(jpegs[0]), **plain, "grey": encoded(Image.open(io.BytesIO(jpegs[1])).convert("L"))}
    expected, actual = (
        run(Extractor(lite(), network, Extract(batch_size=5, decode=decode), LIMITS), source)
        for decode in ("processes", "network")
    )
    assert [(key, bad.reason) for key, bad in actual.failures] == [(key, bad.reason) for key, bad in expected.failures]
    assert {key for key, _ in actual.failures} == {"cut off", "text", "nothing", "damaged"}
    assert actual.keys == expected.keys
    assert set(actual.keys) == {"png", "cmyk", "long", "grey", *plain}
    lengths = np.linalg.norm(actual.vectors, axis=1) * np.linalg.norm(expected.vectors, axis=1)
    assert (np.einsum("nd,nd->n", actual.vectors, expected.vectors) / lengths).min() >= 0.999


def test_only_what_every_decoder_decodes_alike_is_left_to_the_device(jpegs: list[bytes]) -> None:
    left = []

    def otherwise(data: bytes) -> "Future[np.ndarray]":
        left.append(data)
        future: Future[np.ndarray] = Future()
        future.set_exception(BadImage("asked"))
        return future

    data = [jpegs[0], *others(jpegs[0]).values(), jpegs[0] + b"\xff\xd9"]
    pixels, bad = DeviceDecoder(lite().preprocessing, Limits(max_bytes=len(jpegs[0])), "cpu", otherwise)(data)
    assert sorted(left) == sorted(data[1:])
    assert sorted(bad) == list(range(1, len(data)))
    assert len(pixels) == 1


def test_nothing_but_failures(network: TorchRuntime) -> None:
    batches = Extractor(lite(), network, Extract(decode="network"), LIMITS).run([("text", b"text"), ("none", b"")])
    assert [[bad.reason for _, bad in batch.failures] for batch in batches] == [["not_an_image", "empty"]]


def test_a_batch_ends_where_its_bytes_are_too_many(jpegs: list[bytes], network: TorchRuntime) -> None:
    few = Extract(decode="network", queue_bytes=len(jpegs[0]))
    batches = list(Extractor(lite(), network, few, LIMITS).run((str(n), jpegs[0]) for n in range(5)))
    assert [len(batch.keys) for batch in batches] == [2, 2, 1]


def test_openvino_decodes_nothing(cache: str) -> None:
    runtime = open_runtime(lite(), "openvino", Machine(cache, 1))
    with pytest.raises(ServiceError, match=r"decode = 'network': openvino .* decodes no photos; set extract.runtime"):
        list(Extractor(lite(), runtime, Extract(decode="network"), LIMITS).run([("one", b"")]))
