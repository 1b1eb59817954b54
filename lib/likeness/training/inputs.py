"""Inputs of a network in training: rows and random draws in, tensors out.   [torch]

A draw determines the augmentation: of a photo anew each time, or which of its cached, augmented versions is taken.
"""

from typing import Protocol

import numpy as np
import torch

from likeness.training.network import Network


class Inputs(Protocol):
    """The inputs of a network, by row."""

    def batch(self, rows: np.ndarray, draws: np.ndarray | None, device: str) -> torch.Tensor:
        """The inputs of rows, int64 (n,); augmented by draws, float32 (n, DRAWS), or unchanged without draws."""
        ...


class FeatureCache:
    """Cached vectors or maps, (photos, versions, ...); the first version is not augmented.

    Row `n` of the inputs is row `positions[n]` of the array; row `n` itself by default.
    """

    def __init__(self, versions: np.ndarray, positions: np.ndarray | None = None) -> None:
        self._versions = versions
        self._positions = np.arange(len(versions)) if positions is None else positions

    def batch(self, rows: np.ndarray, draws: np.ndarray | None, device: str) -> torch.Tensor:
        """One version of each row, drawn uniformly."""
        count = self._versions.shape[1]
        version = np.zeros(len(rows), np.int64) if draws is None else (draws[:, 0] * count).astype(np.int64)
        return torch.from_numpy(self._versions[self._positions[rows], version]).to(device).float()


class PhotoInputs:
    """Decoded photos, uint8 (photos, side, side, 3); row `n` of the inputs is photo `positions[n]`."""

    def __init__(self, pixels: np.ndarray, positions: np.ndarray, network: Network) -> None:
        self._pixels, self._positions, self._network = pixels, positions, network

    def batch(self, rows: np.ndarray, draws: np.ndarray | None, device: str) -> torch.Tensor:
        """The photos of rows, each augmented by its draws."""
        photos = torch.from_numpy(self._pixels[self._positions[rows]]).to(device)
        return self._network.crop(photos, None if draws is None else torch.from_numpy(draws).to(device))
