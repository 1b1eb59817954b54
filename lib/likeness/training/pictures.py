"""Photos and maps kept on this machine while a network learns from them: a table in, arrays on disk out.   [torch]

What every epoch needs is computed once: photos are decoded, in the order of the table's files, and what the frozen
stages give for them and for their distorted versions is kept as float16.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from likeness.decoding import Decoder
from likeness.errors import ServiceError
from likeness.images import WHOLE, BadImage, Preprocessing
from likeness.settings import Settings
from likeness.tables import IMAGES
from likeness.training.distortions import DRAWS
from likeness.training.learner import Learner, whole
from likeness.warehouse import Warehouse, photos, row_groups

_BATCH = 32


class Pictures:
    """Photos of a root by image_id, decoded for a network; `failures` says which have no pixels, and why."""

    def __init__(self, settings: Settings, image_ids: Sequence[str], how: Preprocessing) -> None:
        self._settings, self._ids, self._how = settings, list(image_ids), whole(how)
        self._folder = Path(settings.extract.cache).expanduser() / "training"
        told = json.dumps([self._ids, asdict(self._how), settings.limits.model_dump()])
        self._key = hashlib.sha256(told.encode()).hexdigest()[:16]
        side = self._how.side
        self.pixels = self._kept("photos", (len(self._ids), side, side, 3), np.dtype(np.uint8), self._decode)
        self.failures: dict[str, str] = json.loads((self._folder / f"{self._key}-failures.json").read_text())

    def maps(self, learner: Learner, versions: int, seed: int, device: str) -> np.ndarray:
        """What the frozen stages give, float16 (photos, 1 + versions, ...): for each as it is, and distorted."""
        space, stage = learner.space.id, next(iter(learner.trunk), "")
        shape = tuple(learner.before(self._given(learner, slice(0, 1), None, device)).shape[1:])
        names = json.dumps([self._key, space, stage, versions, seed])
        name = f"maps-{hashlib.sha256(names.encode()).hexdigest()[:16]}"

        def fill(made: np.ndarray) -> None:
            draws = np.random.default_rng([seed, versions]).random((versions, len(self._ids), DRAWS), np.float32)
            for start in range(0, len(self._ids), _BATCH):
                part = slice(start, start + _BATCH)
                made[part, 0] = learner.before(self._given(learner, part, None, device)).cpu().numpy()
                for version in range(versions):
                    given = self._given(learner, part, draws[version, part], device)
                    made[part, version + 1] = learner.before(given).cpu().numpy()

        return self._kept(name, (len(self._ids), 1 + versions, *shape), np.dtype(np.float16), fill)

    def _given(self, learner: Learner, part: slice, draws: np.ndarray | None, device: str) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(self.pixels[part])).to(device)
        return learner.pixels(pixels, None if draws is None else torch.from_numpy(draws).to(device))

    def _kept(
        self, name: str, shape: tuple[int, ...], kind: np.dtype[np.generic], fill: Callable[[np.ndarray], None]
    ) -> np.ndarray:
        """An array on disk, made by whoever wants it first; readers see it whole."""
        path = self._folder / f"{self._key}-{name}.npy"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{self._key}-{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    draft = path.with_suffix(f".{os.getpid()}")
                    made = np.lib.format.open_memmap(draft, "w+", kind, shape)
                    fill(made)
                    made.flush()
                    draft.replace(path)
        except OSError as error:
            raise ServiceError(
                f"extract.cache = {self._settings.extract.cache}: {error}; name a folder with room"
            ) from None
        found: np.ndarray = np.lib.format.open_memmap(path, "r")
        return found

    def _decode(self, made: np.ndarray) -> None:
        place = {key: row for row, key in enumerate(self._ids)}
        failures: dict[str, str] = {}
        mine, decoders = threading.local(), list[Decoder]()

        def decode(photo: tuple[str, bytes]) -> None:
            key, data = photo
            if not hasattr(mine, "decoder"):
                mine.decoder = Decoder(self._how, self._settings.limits)
                decoders.append(mine.decoder)
            try:
                made[place[key]] = mine.decoder(data, WHOLE)
            except BadImage as bad:
                failures[key] = str(bad)

        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            for batch in _batches(self._photos(frozenset(place)), 8 * threads):
                list(pool.map(decode, batch))
            list(pool.map(lambda one: one.close(), decoders))
        (self._folder / f"{self._key}-failures.json").write_text(json.dumps(failures))

    def _photos(self, wanted: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        for uri, _ in Warehouse(self._settings).parts(IMAGES):
            for group in range(len(row_groups(uri))):
                yield from photos(uri, group, wanted)


def _batches(items: Iterator[tuple[str, bytes]], size: int) -> Iterator[list[tuple[str, bytes]]]:
    batch: list[tuple[str, bytes]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
