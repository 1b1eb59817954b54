"""What this machine can do with some photos and a network: each stage alone, photos a second; the slowest decides."""

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
from likeness.models.model_registry import space_of
from likeness.models.runtimes import Decoding, Runtime, choose, machine, open_runtime

_PHOTOS, _SECONDS = 200, 3.0
_BATCHES = (1, 8, 16, 32, 64, 128)
_PARITY, _GAIN = 0.999, 1.1
_ENOUGH = 0.97
"""Share of the best rate that is good enough, where a smaller batch has it."""


@dataclass(frozen=True)
class HardwareProfile:
    """Photos a second of each stage alone on all cores, and what follows.

    `ceiling` is what extraction cannot pass: on a CPU decoders and networks share the cores, on a GPU the slower of
    both decides. `decoder` is what decodes faster, as `extract.decode` has it. `bottleneck` is the stage that most of
    the time goes into. `parity` is the smallest cosine between vectors in bfloat16 and in float32; 1 where bfloat16
    was not tried.
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


def profile(settings: Settings, report: Callable[[str], None] = lambda told: None) -> HardwareProfile:
    """Measures reading, decoding and the network, one after the other.

    Raises:
        UsageError: the source holds no photo that can be used.
    """
    cores, given = os.cpu_count() or 1, settings.extract
    report("reading")
    photos, read = _read(settings)
    space = space_of(settings)
    report("decoding")
    images, decode = _decode(settings, space.preprocessing, photos, cores)
    report(f"loading {space.name}")
    precision, runtime, parity = _precise(settings, space, images, cores, report)
    batches = {}
    for size in _BATCHES:
        report(f"{space.name}, {size} photos at once")
        batches[size] = _rate(runtime, images, size)
    model = max(batches.values())
    gpu = choose(given.runtime) == "torch" and "cuda" in runtime.name
    by_network = _by_network(settings, runtime, space.preprocessing, photos) if gpu else 0.0
    decoder = "network" if by_network > decode else "processes"
    decode = max(decode, by_network)
    ceiling = min(decode, model, read) if gpu else 1 / (1 / decode + 1 / model + 1 / (read * cores))
    costs = {"read": 1 / read if gpu else 1 / (read * cores), "decode": 1 / decode, "model": 1 / model}
    decoders = 1
    if gpu and decoder == "processes":
        decoders = min(cores, max(1, -(-round(model) // max(1, round(decode / cores)))))
    chosen: dict[str, int | str] = {
        "extract.batch_size": next(size for size, rate in batches.items() if rate >= _ENOUGH * model),
        "extract.decode_threads": decoders,
        **({"extract.precision": precision} if precision != "auto" else {}),
        **({"extract.decode": decoder} if decoder != given.decode else {}),
    }
    megabytes = sum(map(len, photos)) / len(photos) / 1e6
    bottleneck = max(costs, key=costs.__getitem__)
    return HardwareProfile(
        space.id,
        runtime.name,
        cores,
        len(photos),
        megabytes,
        read,
        decode,
        decoder,
        model,
        batches,
        ceiling,
        bottleneck,
        chosen,
        parity,
    )


def _precise(
    settings: Settings, space: Space, images: np.ndarray, cores: int, report: Callable[[str], None]
) -> tuple[str, Runtime, float]:
    """What is computed in, the network, and the smallest cosine between its vectors and those in bfloat16.

    Bfloat16 is taken where it is faster and vectors stay within 0.999.
    """
    plain = machine(settings, cores)
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
    """Some photos of the source, and how many a second one reader reads."""
    listing, reader, photos = read_listing(settings.source), Reader(settings.limits), list[bytes]()
    items = listing.items.slice(0, _PHOTOS).to_pylist()
    begun = time.perf_counter()
    for item in items:
        try:
            photos.append(reader.read(item["uri"], item["length"], item["container"], item["position"]))
        except BadImage:
            continue
    took = time.perf_counter() - begun
    reader.close()
    if not photos:
        raise UsageError(f"--source {uris.canonical(settings.source.uri)}: no photo there can be read")
    return photos, len(photos) / took


def _decode(settings: Settings, how: Preprocessing, photos: Sequence[bytes], cores: int) -> tuple[np.ndarray, float]:
    """The photos as the network takes them, uint8 (n, side, side, 3), and how many a second all cores decode."""
    decoders = DecoderPool(cores, how, settings.limits)

    def decoded(some: Sequence[bytes]) -> list[np.ndarray]:
        found = []
        for pixels in [decoders.submit(photo) for photo in some]:
            with suppress(BadImage):
                found.append(pixels.result())
        return found

    decoded(photos[:cores])  # the processes start
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        images = decoded(photos)
        done += len(photos)
    took = time.perf_counter() - begun
    if not images:
        raise UsageError(f"--source {uris.canonical(settings.source.uri)}: no photo there can be decoded")
    return np.stack(images), done / took


def _by_network(settings: Settings, runtime: Runtime, how: Preprocessing, photos: Sequence[bytes]) -> float:
    """Photos a second that are decoded where the network runs; 0 if it decodes none."""
    if not isinstance(runtime, Decoding):
        return 0.0
    pool = DecoderPool(1, how, settings.limits)
    decoded, size = runtime.decoder(settings.limits, pool.submit), max(_BATCHES)
    decoded(photos[:size])
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        for start in range(0, len(photos), size):
            decoded(photos[start : start + size])
        done += len(photos)
    return done / (time.perf_counter() - begun)


def _rate(runtime: Callable[[np.ndarray], np.ndarray], images: np.ndarray, size: int) -> float:
    """Photos a second in batches of a size, after one that is not counted."""
    batch = np.resize(images, (size, *images.shape[1:]))
    runtime(batch)
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < _SECONDS:
        runtime(batch)
        done += size
    return done / (time.perf_counter() - begun)
