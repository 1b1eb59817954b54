"""A catalogue as large as wanted from real photos: seeded crops and colour changes."""

import io
import multiprocessing
import random
from pathlib import Path

from PIL import Image, ImageEnhance


def variants(source: Path, target: Path, count: int, seed: int = 7) -> Path:
    """Writes `count` different JPEGs made from the photos of `source`, folder by folder; once, then reused."""
    done = target / f".{count}-{seed}"
    if done.exists():
        return target
    originals = sorted(path for path in source.rglob("*.jpg"))
    jobs = [(originals[n % len(originals)], target, n, seed) for n in range(count)]
    with multiprocessing.get_context("spawn").Pool() as pool:
        for _ in pool.imap_unordered(_write, jobs, chunksize=64):
            pass
    done.touch()
    return target


def _write(job: tuple[Path, Path, int, int]) -> None:
    original, target, number, seed = job
    place = target / original.parent.name / f"{number:06d}.jpg"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(variant(original.read_bytes(), random.Random(f"{seed}-{number}")))


def variant(photo: bytes, rng: random.Random) -> bytes:
    """One photo cropped to 75-100 % at a random place, its colour, brightness and contrast changed."""
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    width, height = image.size
    share = rng.uniform(0.75, 1)
    left, top = rng.uniform(0, width * (1 - share)), rng.uniform(0, height * (1 - share))
    image = image.crop((int(left), int(top), int(left + width * share), int(top + height * share)))
    for change in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        image = change(image).enhance(rng.uniform(0.7, 1.3))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return file.getvalue()
