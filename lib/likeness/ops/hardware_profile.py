"""Hardware profile: photos a second of reading, decoding and the network on this machine, and settings that follow."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from likeness.catalog.sources import Reader, read_listing
from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.images.decoder_pool import DecoderPool
from likeness.images.image import BadImage, Preprocessing
from likeness.models.backbones import Space
from likeness.models.runtimes import DecodingRuntime, Runtime, choose_runtime, local_machine, open_runtime
from likeness.models.spaces import space_of

_PHOTOS, _SECONDS = 200, 3.0
_BATCHES = (1, 8, 16, 32, 64, 128)
_PARITY, _GAIN = 0.999, 1.1
_ENOUGH = 0.97
"""The smallest batch size that reaches this share of the best rate is chosen."""


@dataclass(frozen=True)
class HardwareProfile:
    """Photos a second of each stage alone on all cores, and the settings that follow.

    `ceiling` is the upper bound of extraction: on a CPU decoders and network share the cores, on a GPU the slowest
    stage decides. `decoder` is the faster value of `extract.decode`. `bottleneck` is the stage that takes the largest
    part of the time. `parity` is the smallest cosine between vectors in bfloat16 and in float32; 1 if bfloat16 was not
    tried.
    """

    space: str
    runtime: str
    cores: int
    photos: int
    megabytes: float
    read: float
    decode: float
    decoder: str
    model: float
    batches: dict[int, float]
    ceiling: float
    bottleneck: str
    settings: dict[str, int | str]
    parity: float


def profile(settings: Settings, report: Callable[[str], None] = lambda message: None) -> HardwareProfile:
    """Measures reading, decoding and the network, one after the other.

    Args:
        settings: the source, and how photos are extracted.
        report: called with a line of progress before each measurement.

    Raises:
        UsageError: no photo of the source can be read or decoded.
    """
    cores = os.cpu_count() or 1
    report("reading")
    photos, read = _read(settings)
    space = space_of(settings)
    report("decoding")
    images, decode = _decode(settings, space.preprocessing, photos, cores)
    report(f"loading {space.name}")
    precision, runtime, parity = _choose_precision(settings, space, images, cores, report)
    batches = {}
    for size in _BATCHES:
        report(f"{space.name}, batches of {size}")
        batches[size] = _rate(runtime, images, size)
    model = max(batches.values())
    gpu = choose_runtime(settings.extract.runtime) == "torch" and "cuda" in runtime.name
    by_network = _decode_by_network(settings, runtime, space.preprocessing, photos) if gpu else 0.0
    decoder = "network" if by_network > decode else "processes"
    decode = max(decode, by_network)
    costs = {"read": 1 / read if gpu else 1 / (read * cores), "decode": 1 / decode, "model": 1 / model}
    needed = -(-round(model) // max(1, round(decode / cores))) if gpu and decoder == "processes" else 1
    return HardwareProfile(
        space=space.id,
        runtime=runtime.name,
        cores=cores,
        photos=len(photos),
        megabytes=sum(map(len, photos)) / len(photos) / 1e6,
        read=read,
        decode=decode,
        decoder=decoder,
        model=model,
        batches=batches,
        ceiling=min(decode, model, read) if gpu else 1 / sum(costs.values()),
        bottleneck=max(costs, key=costs.__getitem__),
        settings={
            "extract.batch_size": next(size for size, rate in batches.items() if rate >= _ENOUGH * model),
            "extract.decode_threads": min(cores, max(1, needed)),
            **({"extract.precision": precision} if precision != "auto" else {}),
            **({"extract.decode": decoder} if decoder != settings.extract.decode else {}),
        },
        parity=parity,
    )


def _choose_precision(
    settings: Settings, space: Space, images: np.ndarray, cores: int, report: Callable[[str], None]
) -> tuple[str, Runtime, float]:
    """Chooses bfloat16 where it is faster and its vectors stay within 0.999 of those in float32.

    Returns:
        `extract.precision`, the network, and the smallest cosine between vectors of both precisions.
    """
    plain = local_machine(settings, cores)
    runtime = open_runtime(space, settings.extract.runtime, plain)
    if plain.precision != "auto" or "cuda" in runtime.name:
        return plain.precision, runtime, 1.0
    report(f"{space.name} in bfloat16")
    half = open_runtime(space, settings.extract.runtime, dataclasses.replace(plain, precision="bfloat16"))
    one, other = runtime(images), half(images)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = float((np.einsum("nd,nd->n", one, other) / np.where(lengths == 0, 1, lengths)).min())
    size = max(_BATCHES)
    if cosine >= _PARITY and _rate(half, images, size) > _GAIN * _rate(runtime, images, size):
        return "bfloat16", half, cosine
    return "auto", runtime, cosine


def _read(settings: Settings) -> tuple[list[bytes], float]:
    """The first photos of the source, and how many a second one reader reads."""
    listing, reader, photos = read_listing(settings.source), Reader(settings.limits), list[bytes]()
    items = listing.items.slice(0, _PHOTOS).to_pylist()
    begun = time.perf_counter()
    for item in items:
        with suppress(BadImage):
            photos.append(reader.read(item["uri"], item["length"], item["container"], item["position"]))
    took = time.perf_counter() - begun
    reader.close()
    if not photos:
        raise UsageError(f"--source {uris.canonical(settings.source.uri)}: no photo there can be read")
    return photos, len(photos) / took


def _decode(settings: Settings, how: Preprocessing, photos: Sequence[bytes], cores: int) -> tuple[np.ndarray, float]:
    """Photos as the network takes them, uint8 (n, side, side, 3), and how many a second all cores decode."""
    pool = DecoderPool(cores, how, settings.limits)

    def decoded(batch: Sequence[bytes]) -> list[np.ndarray]:
        images = []
        for pixels in [pool.submit(photo) for photo in batch]:
            with suppress(BadImage):
                images.append(pixels.result())
        return images

    images = decoded(photos)  # starts the processes
    rate = _per_second(lambda: decoded(photos), len(photos))
    if not images:
        raise UsageError(f"--source {uris.canonical(settings.source.uri)}: no photo there can be decoded")
    return np.stack(images), rate


def _decode_by_network(settings: Settings, runtime: Runtime, how: Preprocessing, photos: Sequence[bytes]) -> float:
    """Photos a second that the network's device decodes; 0 if the runtime does not decode."""
    if not isinstance(runtime, DecodingRuntime):
        return 0.0
    pool = DecoderPool(1, how, settings.limits)
    decoded, size = runtime.decoder(settings.limits, pool.submit), max(_BATCHES)
    decoded(photos[:size])

    batches = [photos[start : start + size] for start in range(0, len(photos), size)]
    return _per_second(lambda: list(map(decoded, batches)), len(photos))


def _rate(runtime: Callable[[np.ndarray], np.ndarray], images: np.ndarray, size: int) -> float:
    """Photos a second of the network in batches of a size, after one batch to warm up."""
    batch = np.resize(images, (size, *images.shape[1:]))
    runtime(batch)
    return _per_second(lambda: runtime(batch), size)


def _per_second(work: Callable[[], object], photos: int) -> float:
    """Repeats work on so many photos, and returns photos a second."""
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        work()
        done += photos
    return done / (time.perf_counter() - begun)
