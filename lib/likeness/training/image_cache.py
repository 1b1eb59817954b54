"""Photos and maps kept on this machine while a network learns from them: a table in, arrays on disk out.   [torch]

What every epoch needs is computed once: photos are decoded, in the order of the table's files, and what the frozen
stages give for them and for their distorted versions is kept as float16.
"""

import fcntl
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from likeness.core.errors import ServiceError
from likeness.core.progress import Bar
from likeness.core.settings import Settings
from likeness.images.decoder_pool import DecoderPool
from likeness.images.image import BadImage, Preprocessing
from likeness.models.runtimes import machine, open_runtime
from likeness.storage.table_reader import TableReader
from likeness.training.augmentation import DRAWS
from likeness.training.network import Network, whole

Show = Callable[[str, int], AbstractContextManager[Bar]]
"""A bar for so many photos."""
_BATCH = 32
_IDLE_S = 86_400.0


class ImageCache:
    """Photos of a root by image_id, decoded for a network; `failures` says which have no pixels, and why.

    What is not there yet is computed under a bar. What was not used for a day goes.
    """

    def __init__(self, settings: Settings, image_ids: Sequence[str], how: Preprocessing, show: Show) -> None:
        self._settings, self._ids, self._how, self._show = settings, list(image_ids), whole(how), show
        self._folder = Path(settings.extract.cache).expanduser() / "training"
        self._sweep()
        told = json.dumps([self._ids, asdict(self._how), settings.limits.model_dump()])
        self._key = hashlib.sha256(told.encode()).hexdigest()[:16]
        side = self._how.side
        self.pixels = self._kept("photos", (len(self._ids), side, side, 3), np.dtype(np.uint8), self._decode)
        self.failures: dict[str, str] = json.loads((self._folder / f"{self._key}-failures.json").read_text())

    def rows(self, image_ids: Sequence[str]) -> np.ndarray:
        """Where photos are in `pixels` and in maps, int64 (n,)."""
        place = {key: row for row, key in enumerate(self._ids)}
        return np.array([place[key] for key in image_ids], np.int64)

    def maps(self, learner: Network, versions: int, seed: int) -> np.ndarray:
        """What the frozen stages give, float16 (photos, 1 + versions, ...): for each as it is, and distorted."""
        space, settings = learner.frozen, self._settings
        shape = tuple(learner.before(self._given(learner, slice(0, 1), None)).shape[1:])
        told = json.dumps([self._key, space.id, versions, seed])

        def fill(made: np.ndarray) -> None:
            runtime = open_runtime(space, settings.extract.runtime, machine(settings, os.cpu_count() or 1))
            draws = np.random.default_rng([seed, versions]).random((versions, len(self._ids), DRAWS), np.float32)
            with self._show(f"running {space.name}", len(self._ids)) as bar:
                for start in range(0, len(self._ids), _BATCH):
                    part = slice(start, start + _BATCH)
                    for version, draw in enumerate((None, *draws[:, part])):
                        pixels = self._given(learner, part, draw).round().clamp(0, 255).byte().numpy()
                        made[part, version] = runtime(pixels).reshape(-1, *shape)
                    bar.at(min(start + _BATCH, len(self._ids)))

        name = f"maps-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        return self._kept(name, (len(self._ids), 1 + versions, *shape), np.dtype(np.float16), fill)

    def _given(self, learner: Network, part: slice, draws: np.ndarray | None) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(self.pixels[part]))
        return learner.pixels(pixels, None if draws is None else torch.from_numpy(draws))

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
        os.utime(path)
        found: np.ndarray = np.lib.format.open_memmap(path, "r")
        return found

    def _decode(self, made: np.ndarray) -> None:
        place = {key: row for row, key in enumerate(self._ids)}
        failures: dict[str, str] = {}
        waiting = deque[tuple[str, Future[np.ndarray]]]()

        def take() -> None:
            key, pixels = waiting.popleft()
            try:
                made[place[key]] = pixels.result()
            except BadImage as bad:
                failures[key] = str(bad)

        threads = os.cpu_count() or 1
        decoders = DecoderPool(threads, self._how, self._settings.limits)
        with self._show("decoding", len(self._ids)) as bar:
            for done, (key, data) in enumerate(TableReader(self._settings).stream(place), 1):
                waiting.append((key, decoders.submit(data)))
                if len(waiting) == 8 * threads:
                    take()
                bar.at(done)
            while waiting:
                take()
        (self._folder / f"{self._key}-failures.json").write_text(json.dumps(failures))

    def _sweep(self) -> None:
        for path in self._folder.glob("*.npy"):
            with suppress(FileNotFoundError):  # another process was quicker
                if path.stat().st_mtime < time.time() - _IDLE_S:
                    path.unlink()
