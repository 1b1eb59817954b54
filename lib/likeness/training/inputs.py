"""What a network that learns is fed with: rows and draws in, tensors out.   [torch]

A draw decides how a photo is distorted: anew each time where photos are fed, or which of the distorted versions is
taken whose maps or vectors were computed before.
"""

from typing import Protocol

import numpy as np
import torch

from likeness.training.network import Network


class Inputs(Protocol):
    """The inputs of a network, by row."""

    def take(self, rows: np.ndarray, draws: np.ndarray | None, device: str) -> torch.Tensor:
        """The inputs of rows, int64 (n,), distorted by draws, float32 (n, DRAWS); as they are without."""
        ...


class FeatureCache:
    """Vectors or maps, (photos, versions, ...), the first version as it is; any array that can be indexed.

    Row `n` of the feed is row `at[n]` of the array; the same one where `at` is not given.
    """

    def __init__(self, versions: np.ndarray, at: np.ndarray | None = None) -> None:
        self._versions, self._at = versions, np.arange(len(versions)) if at is None else at

    def take(self, rows: np.ndarray, draws: np.ndarray | None, device: str) -> torch.Tensor:
        """One of the versions, each as probable."""
        count = self._versions.shape[1]
        which = np.zeros(len(rows), np.int64) if draws is None else (draws[:, 0] * count).astype(np.int64)
        return torch.from_numpy(self._versions[self._at[rows], which]).to(device).float()


class PhotoInputs:
    """Photos, uint8 (photos, side, side, 3), prepared with `whole`; row `n` of the feed is photo `at[n]`."""

    def __init__(self, pixels: np.ndarray, at: np.ndarray, learner: Network) -> None:
        self._pixels, self._at, self._learner = pixels, at, learner

    def take(self, rows: np.ndarray, draws: np.ndarray | None, device: str) -> torch.Tensor:
        """Each as the camera might have taken it as well."""
        photos = torch.from_numpy(self._pixels[self._at[rows]]).to(device)
        return self._learner.pixels(photos, None if draws is None else torch.from_numpy(draws).to(device))
