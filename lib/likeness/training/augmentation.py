"""Data augmentation: random crops, mirror images and brightness. Random draws in, distorted photos out.   [torch]"""

import torch
from torch.nn import functional as F

from likeness.images.image import Preprocessing

DRAWS = 6
"""Random numbers between 0 and 1 that determine the augmentation of one photo."""
_MIN_SCALE, _STRETCH, _BRIGHTNESS = 0.6, 0.15, 0.25


def augment(photos: torch.Tensor, draws: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Takes a random crop of each photo, mirrors it or not, and changes its brightness.

    Args:
        photos: uint8 (n, side, side, 3), prepared with `cache_preprocessing`.
        draws: float32 (n, DRAWS) between 0 and 1.
        preprocessing: of the network.

    Returns:
        float32 (n, crop, crop, 3), between 0 and 255.
    """
    scale = _MIN_SCALE + (1 - _MIN_SCALE) * draws[:, 0]
    stretch = 1 + _STRETCH * (2 * draws[:, 1] - 1)
    wide, high = (scale * stretch).clamp(max=1), (scale / stretch).clamp(max=1)
    mirror = 1 - 2 * (draws[:, 4] < 0.5).float()
    across, down = (1 - wide) * (2 * draws[:, 2] - 1), (1 - high) * (2 * draws[:, 3] - 1)
    zeros = torch.zeros_like(wide)
    affine = torch.stack([wide * mirror, zeros, across, zeros, high, down], 1)
    size = [len(photos), 3, preprocessing.crop, preprocessing.crop]
    grid = F.affine_grid(affine.view(-1, 2, 3), size, align_corners=False)
    planes = photos.permute(0, 3, 1, 2).float()
    crops = F.grid_sample(planes, grid, align_corners=False, padding_mode="border")
    brightness = 1 + _BRIGHTNESS * (2 * draws[:, 5] - 1)
    return (crops * brightness[:, None, None, None]).clamp(0, 255).permute(0, 2, 3, 1)


def centre_crop(photos: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Crops photos as the network's preprocessing does: uint8 (n, side, side, 3) to (n, crop, crop, 3)."""
    left = (photos.shape[1] - preprocessing.crop) // 2
    return photos[:, left : left + preprocessing.crop, left : left + preprocessing.crop]
