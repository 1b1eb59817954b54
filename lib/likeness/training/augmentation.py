"""Photos as a camera might have taken them as well: crops, mirror images, light. Draws in, pictures out.   [torch]"""

import torch
from torch.nn import functional as F

from likeness.images.image import Preprocessing

DRAWS = 6
"""Numbers between 0 and 1 that decide how one photo is distorted."""
_SMALLEST, _STRETCH, _LIGHT = 0.6, 0.15, 0.25


def distorted(photos: torch.Tensor, draws: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """Random parts of photos, mirrored or not, lighter or darker, as a network takes them.

    Args:
        photos: uint8 (n, side, side, 3), prepared with `whole(how)`.
        draws: float32 (n, DRAWS) between 0 and 1.
        how: the network's preprocessing.

    Returns:
        float32 (n, crop, crop, 3), values as those of pixels.
    """
    scale = _SMALLEST + (1 - _SMALLEST) * draws[:, 0]
    stretch = 1 + _STRETCH * (2 * draws[:, 1] - 1)
    wide, high = (scale * stretch).clamp(max=1), (scale / stretch).clamp(max=1)
    mirrored = 1 - 2 * (draws[:, 4] < 0.5).float()
    across, down = (1 - wide) * (2 * draws[:, 2] - 1), (1 - high) * (2 * draws[:, 3] - 1)
    nothing = torch.zeros_like(wide)
    rows = torch.stack([wide * mirrored, nothing, across, nothing, high, down], 1)
    grid = F.affine_grid(rows.view(-1, 2, 3), [len(photos), 3, how.crop, how.crop], align_corners=False)
    planes = photos.permute(0, 3, 1, 2).float()
    found = F.grid_sample(planes, grid, align_corners=False, padding_mode="border")
    light = 1 + _LIGHT * (2 * draws[:, 5] - 1)
    return (found * light[:, None, None, None]).clamp(0, 255).permute(0, 2, 3, 1)


def middle(photos: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """The part that a network is given otherwise: uint8 (n, side, side, 3) to (n, crop, crop, 3)."""
    left = (photos.shape[1] - how.crop) // 2
    return photos[:, left : left + how.crop, left : left + how.crop]
