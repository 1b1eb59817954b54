"""A cache of decoded photos and feature maps for training: a table in, memory-mapped arrays out.   [torch]

What each epoch needs is computed once: photos are decoded in the order of the table's files, and the outputs of the
frozen stages for them and for their augmented versions are stored as float16.
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
from likeness.models.runtimes import local_machine, open_runtime
from likeness.storage.table_reader import TableReader
from likeness.training.augmentation import DRAWS
from likeness.training.network import Network, cache_preprocessing

ShowBar = Callable[[str, int], AbstractContextManager[Bar]]
"""Shows a bar for an activity over so many photos."""
_BATCH = 32
_STALE_S = 86_400.0


class ImageCache:
    """Photos of a root, decoded for a network; `failures` has the image_ids without pixels, and why.

    Missing arrays are computed under a progress bar. Arrays that were not used for a day are deleted.
    """

    def __init__(
        self, settings: Settings, image_ids: Sequence[str], preprocessing: Preprocessing, show_bar: ShowBar
    ) -> None:
        self._settings, self._ids, self._show_bar = settings, list(image_ids), show_bar
        self._position = {image_id: row for row, image_id in enumerate(image_ids)}
        self._preprocessing = cache_preprocessing(preprocessing)
        self._folder = Path(settings.extract.cache).expanduser() / "training"
        self._delete_stale()
        self._key = _short_hash([self._ids, asdict(self._preprocessing), settings.limits.model_dump()])
        side = self._preprocessing.side
        self.pixels = self._open("photos", (len(self._ids), side, side, 3), np.dtype(np.uint8), self._decode)
        self.failures: dict[str, str] = json.loads((self._folder / f"{self._key}-failures.json").read_text())

    def positions(self, image_ids: Sequence[str]) -> np.ndarray:
        """Positions of photos in `pixels` and in feature maps, int64 (n,)."""
        return np.array([self._position[key] for key in image_ids], np.int64)

    def feature_maps(self, network: Network, versions: int, seed: int) -> np.ndarray:
        """Outputs of a network's frozen stages, float16 (photos, 1 + versions, ...): not augmented, then augmented."""
        space, settings = network.frozen_space, self._settings
        shape = tuple(network.frozen_features(self._crops(network, slice(0, 1), None)).shape[1:])

        def fill(maps: np.ndarray) -> None:
            runtime = open_runtime(space, settings.extract.runtime, local_machine(settings, os.cpu_count() or 1))
            draws = np.random.default_rng([seed, versions]).random((versions, len(self._ids), DRAWS), np.float32)
            with self._show_bar(f"running {space.name}", len(self._ids)) as bar:
                for start in range(0, len(self._ids), _BATCH):
                    part = slice(start, start + _BATCH)
                    for version, draw in enumerate((None, *draws[:, part])):
                        pixels = self._crops(network, part, draw).round().clamp(0, 255).byte().numpy()
                        maps[part, version] = runtime(pixels).reshape(-1, *shape)
                    bar.at(min(start + _BATCH, len(self._ids)))

        name = f"maps-{_short_hash([self._key, space.id, versions, seed])}"
        return self._open(name, (len(self._ids), 1 + versions, *shape), np.dtype(np.float16), fill)

    def _crops(self, network: Network, part: slice, draws: np.ndarray | None) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(self.pixels[part]))
        return network.crop(pixels, None if draws is None else torch.from_numpy(draws))

    def _open(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], fill: Callable[[np.ndarray], None]
    ) -> np.ndarray:
        """Opens an array on disk; the first process that needs it fills it, and the others wait."""
        path = self._folder / f"{self._key}-{name}.npy"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{self._key}-{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    draft = path.with_suffix(f".{os.getpid()}")
                    new = np.lib.format.open_memmap(draft, "w+", dtype, shape)
                    fill(new)
                    new.flush()
                    draft.replace(path)
        except OSError as error:
            raise ServiceError(
                f"extract.cache = {self._settings.extract.cache}: {error}; name a folder with free space"
            ) from None
        os.utime(path)
        array: np.ndarray = np.lib.format.open_memmap(path, "r")
        return array

    def _decode(self, pixels: np.ndarray) -> None:
        failures: dict[str, str] = {}
        pending = deque[tuple[str, Future[np.ndarray]]]()

        def store_first() -> None:
            key, future = pending.popleft()
            try:
                pixels[self._position[key]] = future.result()
            except BadImage as bad:
                failures[key] = str(bad)

        threads = os.cpu_count() or 1
        decoders = DecoderPool(threads, self._preprocessing, self._settings.limits)
        with self._show_bar("decoding", len(self._ids)) as bar:
            for done, (key, data) in enumerate(TableReader(self._settings).stream(self._position), 1):
                pending.append((key, decoders.submit(data)))
                if len(pending) == 8 * threads:
                    store_first()
                bar.at(done)
            while pending:
                store_first()
        (self._folder / f"{self._key}-failures.json").write_text(json.dumps(failures))

    def _delete_stale(self) -> None:
        for path in self._folder.glob("*.npy"):
            with suppress(FileNotFoundError):  # another process deleted it
                if path.stat().st_mtime < time.time() - _STALE_S:
                    path.unlink()


def _short_hash(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
