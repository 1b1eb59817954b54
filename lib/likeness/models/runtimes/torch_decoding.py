"""JPEGs decoded where the network runs, by nvJPEG on CUDA: bytes in, pixels on it out.   [torch, torchvision]"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from likeness.core.settings import Limits
from likeness.images.image import BadImage, Preprocessing, orientation, placed
from likeness.models.runtimes import Otherwise

_TURNS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.rot90(2, (1, 2)),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.transpose(1, 2),
    6: lambda pixels: pixels.rot90(-1, (1, 2)),
    7: lambda pixels: pixels.transpose(1, 2).rot90(2, (1, 2)),
    8: lambda pixels: pixels.rot90(1, (1, 2)),
}
"""EXIF's orientations, of pixels (3, height, width)."""


class DeviceDecoder:
    """Decodes, turns, resizes and crops as `images.prepared` does, on a device; for several threads at once.

    What `images.orientation` gives 0 for, and what fails here, is decoded otherwise, so that the same photos have the
    same fate wherever they are decoded.
    """

    def __init__(self, how: Preprocessing, limits: Limits, device: str, otherwise: Otherwise) -> None:
        self._how, self._limits, self._device, self._otherwise = how, limits, device, otherwise
        self._mode = InterpolationMode(how.interpolation)

    def __call__(self, photos: Sequence[bytes]) -> tuple[torch.Tensor, dict[int, BadImage]]:
        """The photos as the network takes them, uint8 (m, side, side, 3) on the device, and why others have no pixels.

        Those are named by their number among the n = m + others that were given.
        """
        turns = [orientation(photo, self._limits) for photo in photos]
        others = {number: self._otherwise(photos[number]) for number, turn in enumerate(turns) if not turn}
        plain = [number for number, turn in enumerate(turns) if turn]
        found: dict[int, torch.Tensor] = {}
        for number, pixels in zip(plain, self._decoded([photos[n] for n in plain]), strict=True):
            if pixels is None:
                others[number] = self._otherwise(photos[number])
            else:
                found[number] = self._fitted(_TURNS[turns[number]](pixels))
        bad: dict[int, BadImage] = {}
        for number, future in others.items():
            try:
                found[number] = torch.from_numpy(future.result()).to(self._device, non_blocking=True)
            except BadImage as why:
                bad[number] = why
        side = self._how.side
        kept = [found[number] for number in sorted(found)]
        return torch.stack(kept) if kept else torch.empty((0, side, side, 3), dtype=torch.uint8), bad

    def _decoded(self, photos: Sequence[bytes]) -> list[torch.Tensor | None]:
        """All at once, (3, height, width) each; if that fails, half of them at a time, for it does not say of which."""
        if not photos:
            return []
        # from_numpy wants memory that may be written to
        given = [torch.from_numpy(np.frombuffer(bytearray(photo), np.uint8)) for photo in photos]
        try:
            return list(decode_jpeg(given, ImageReadMode.RGB, self._device))
        except RuntimeError:
            if len(photos) == 1:
                return [None]
            half = len(photos) // 2
            return self._decoded(photos[:half]) + self._decoded(photos[half:])

    def _fitted(self, pixels: torch.Tensor) -> torch.Tensor:
        """(3, height, width) resized and cropped to (side, side, 3)."""
        side = self._how.side
        (wide, high), (left, top) = placed(pixels.shape[2], pixels.shape[1], self._how)
        whole: torch.Tensor = F.resize(pixels, [high, wide], self._mode, antialias=True)
        if self._how.shape == "pad":
            colour = torch.tensor(self._how.colour, dtype=torch.uint8, device=pixels.device)
            square = colour[:, None, None].repeat(1, side, side)
            square[:, -top : high - top, -left : wide - left] = whole
            return square.permute(1, 2, 0)
        return whole[:, top : top + side, left : left + side].permute(1, 2, 0)
