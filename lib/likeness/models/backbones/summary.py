"""What a backbone is made of: a row a stage, with shape, receptive field, parameters and work.   [torch]

The stages run once on torch's `meta` device, where tensors have a shape and no values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from likeness.models.backbones.network import chain
from likeness.models.backbones.spec import Backbone

_FLOAT = 4


@dataclass(frozen=True)
class LayerSummary:
    """One stage: the shape of what it gives for a photo, and what it costs.

    `field` is the side of the part of the photo that one value depends on, `stride` the way between two neighbours,
    both in pixels; `macs` are multiplications with additions; `bytes` are those of what it gives, in float32.
    """

    layer: str
    shape: tuple[int, ...]
    field: int
    stride: int
    parameters: int
    macs: int
    bytes: int


def summary(spec: Backbone) -> Sequence[LayerSummary]:
    """The stages of a backbone, one after the other, for a photo of the usual size."""
    side, rows = spec.preprocessing.crop, []
    with torch.device("meta"), torch.inference_mode(), _Fields() as fields:
        maps = torch.zeros(1, 3, side, side)
        for name, stage in chain(spec, None):
            with FlopCounterMode(display=False) as flops:
                maps = stage(maps)
            field, stride = fields.of(maps)
            shape = tuple(maps.shape[1:])
            parameters = sum(one.numel() for one in stage.parameters())
            flat = shape[:1] if shape[1:] == (1, 1) else shape
            macs = flops.get_total_flops() // 2
            rows.append(LayerSummary(name, flat, min(field, side), stride, parameters, macs, _FLOAT * maps[0].numel()))
    return rows


class _Fields(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how much of the photo each tensor's values depend on: (side, stride) in pixels.

    Of several tensors that are put together it is the most that counts.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, tuple[int, int]] = {}
        self._kept: list[torch.Tensor] = []  # an id is a tensor's as long as it lives

    def of(self, maps: torch.Tensor) -> tuple[int, int]:
        """Receptive field and stride."""
        return self._known.get(id(maps), (1, 1))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation, and notes what its results depend on."""
        given = func(*args, **(kwargs or {}))
        before = [self.of(one) for one in _tensors(args)]
        field, stride = max((one[0] for one in before), default=1), max((one[1] for one in before), default=1)
        kernel, step = _window(func, args)
        for tensor in _tensors((given,)):
            self._known[id(tensor)] = field + (kernel - 1) * stride, stride * step
            self._kept.append(tensor)
        return given


def _tensors(values: Any) -> list[torch.Tensor]:
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _window(func: Any, args: Any) -> tuple[int, int]:
    """Sides of the window and of the step of an operation on maps; a product with a whole map sees all of it."""
    name = func.overloadpacket.__name__
    if name == "convolution":
        return args[1].shape[2], args[3][0]
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        return args[1][0], (args[2][0] if len(args) > 2 and args[2] else args[1][0])
    if name in ("_adaptive_avg_pool2d", "mean"):
        return (args[0].shape[2], args[0].shape[2]) if args[0].dim() == 4 else (1, 1)
    if name in ("view", "_unsafe_view", "reshape", "flatten") and args[0].dim() == 4 and len(args[1]) == 2:
        return args[0].shape[2], args[0].shape[2]
    return 1, 1
