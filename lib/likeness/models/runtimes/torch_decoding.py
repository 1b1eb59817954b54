"""JPEG decoding on the device of the network, by nvJPEG on CUDA: bytes in, pixels there out.   [torch, torchvision]"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from likeness.core.settings import Limits
from likeness.images.image import BadImage, Preprocessing, crop_geometry, exif_orientation
from likeness.models.runtimes import FallbackDecoder

_ROTATIONS: dict[int, Callable[[torch.Tensor], torch.Tensor]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.rot90(2, (1, 2)),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.transpose(1, 2),
    6: lambda pixels: pixels.rot90(-1, (1, 2)),
    7: lambda pixels: pixels.transpose(1, 2).rot90(2, (1, 2)),
    8: lambda pixels: pixels.rot90(1, (1, 2)),
}
"""By EXIF orientation; pixels are (3, height, width)."""


class DeviceDecoder:
    """Decodes, rotates, resizes and crops as `images.preprocess` does, on a device. Thread-safe.

    Photos for which `images.exif_orientation` gives 0, and photos that fail here, go to the fallback decoder, so that
    the same photos succeed or fail wherever they are decoded.
    """

    def __init__(self, preprocessing: Preprocessing, limits: Limits, device: str, fallback: FallbackDecoder) -> None:
        self._preprocessing, self._limits, self._device, self._fallback = preprocessing, limits, device, fallback
        self._mode = InterpolationMode(preprocessing.interpolation)

    def __call__(self, photos: Sequence[bytes]) -> tuple[torch.Tensor, dict[int, BadImage]]:
        """Decodes a batch of n photos.

        Returns:
            The pixels of the m photos that could be decoded, uint8 (m, side, side, 3) on the device, and the failures
            by the photo's number.
        """
        orientations = [exif_orientation(photo, self._limits) for photo in photos]
        pending = {n: self._fallback(photos[n]) for n, orientation in enumerate(orientations) if not orientation}
        plain = [number for number, orientation in enumerate(orientations) if orientation]
        images: dict[int, torch.Tensor] = {}
        for number, pixels in zip(plain, self._decode([photos[n] for n in plain]), strict=True):
            if pixels is None:
                pending[number] = self._fallback(photos[number])
            else:
                images[number] = self._resize_and_crop(_ROTATIONS[orientations[number]](pixels))
        failures: dict[int, BadImage] = {}
        for number, future in pending.items():
            try:
                images[number] = torch.from_numpy(future.result()).to(self._device, non_blocking=True)
            except BadImage as bad:
                failures[number] = bad
        side = self._preprocessing.side
        ordered = [images[number] for number in sorted(images)]
        return torch.stack(ordered) if ordered else torch.empty((0, side, side, 3), dtype=torch.uint8), failures

    def _decode(self, photos: Sequence[bytes]) -> list[torch.Tensor | None]:
        """Decodes to (3, height, width) each; None for a photo that fails.

        All are decoded in one call. If it fails, it does not say for which photo, so each half is tried by itself.
        """
        if not photos:
            return []
        # from_numpy needs writable memory
        buffers = [torch.from_numpy(np.frombuffer(bytearray(photo), np.uint8)) for photo in photos]
        try:
            return list(decode_jpeg(buffers, ImageReadMode.RGB, self._device))
        except RuntimeError:
            if len(photos) == 1:
                return [None]
            half = len(photos) // 2
            return self._decode(photos[:half]) + self._decode(photos[half:])

    def _resize_and_crop(self, pixels: torch.Tensor) -> torch.Tensor:
        """(3, height, width) to (side, side, 3)."""
        side = self._preprocessing.side
        (wide, high), (left, top) = crop_geometry(pixels.shape[2], pixels.shape[1], self._preprocessing)
        resized: torch.Tensor = F.resize(pixels, [high, wide], self._mode, antialias=True)
        if self._preprocessing.shape == "pad":
            colour = torch.tensor(self._preprocessing.fill_colour, dtype=torch.uint8, device=pixels.device)
            square = colour[:, None, None].repeat(1, side, side)
            square[:, -top : high - top, -left : wide - left] = resized
            return square.permute(1, 2, 0)
        return resized[:, top : top + side, left : left + side].permute(1, 2, 0)
