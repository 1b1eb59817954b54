"""Histograms of oriented gradients (Dalal and Triggs 2005): no weights, a baseline for networks."""

from typing import TYPE_CHECKING

from likeness.images.image import Preprocessing
from likeness.models.backbones.spec import Backbone, Built, Layer

if TYPE_CHECKING:
    import torch

_SIDE, _CELL, _BINS, _CLIP, _EPS = 128, 16, 9, 0.2, 1e-4


def _network() -> Built:
    import torch

    from likeness.models.backbones.network import Lambda

    return torch.nn.Module(), [("cells", Lambda(_cells)), ("blocks", Lambda(_blocks))]


def _cells(images: "torch.Tensor") -> "torch.Tensor":
    """Histograms of gradients by direction, (n, 3, h, w) to (n, 9, h / 16, w / 16); the steepest channel counts.

    The magnitude is split between the two nearest of the directions 0, 20, ... 160 degrees.
    """
    import torch

    across = torch.nn.functional.pad(images[:, :, :, 2:] - images[:, :, :, :-2], (1, 1))
    down = torch.nn.functional.pad(images[:, :, 2:] - images[:, :, :-2], (0, 0, 1, 1))
    length = (across * across + down * down).sqrt()
    most = length.amax(1, keepdim=True)
    steepest = (length == most).to(images.dtype)
    steepest = steepest / steepest.sum(1, keepdim=True)
    across, down = ((part * steepest).sum(1, keepdim=True) for part in (across, down))
    direction = down.atan2(across) * (_BINS / 3.141592653589793)  # in bins; opposite directions are the same
    parts = []
    for number in range(_BINS):
        away = (direction - number) % _BINS
        near = (1 - away).clamp(min=0) + (away - (_BINS - 1)).clamp(min=0)
        parts.append(near * most)
    return torch.nn.functional.avg_pool2d(torch.cat(parts, 1), _CELL)


def _blocks(cells: "torch.Tensor") -> "torch.Tensor":
    """Blocks of 2 x 2 cells, normalised, clipped, normalised again: (n, 9, h, w) to (n, 36, h - 1, w - 1)."""
    import torch

    parts = [cells[:, :, :-1, :-1], cells[:, :, :-1, 1:], cells[:, :, 1:, :-1], cells[:, :, 1:, 1:]]
    blocks = torch.cat(parts, 1)
    for limit in (_CLIP, 1.0):
        blocks = (blocks / (blocks * blocks).sum(1, keepdim=True).add(_EPS).sqrt()).clamp(max=limit)
    return blocks


BACKBONES = (
    Backbone(
        name="hog",
        doc="histograms of oriented gradients, 128 px, cells of 16 px, 9 directions",
        licence="Apache-2.0 (written here)",
        source="none",
        preprocessing=Preprocessing(128, 128, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shape="squash"),
        layers={
            "cells": Layer((9, 8, 8), "histogram of each cell"),
            "blocks": Layer((36, 7, 7), "blocks of 2 x 2 cells, normalised"),
        },
        weights=None,
        network=_network,
    ),
)
