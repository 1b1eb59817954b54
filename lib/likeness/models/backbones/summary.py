"""Summary of a backbone: shape, receptive field, parameters and multiply-adds of each stage.   [torch]

The stages run once on torch's `meta` device, where tensors have a shape but no values.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from likeness.models.backbones.network import load_stages
from likeness.models.backbones.spec import Backbone

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class LayerSummary:
    """One stage: the shape of its output for one photo, and its cost.

    `field` is the side of the receptive field and `stride` the distance between neighbouring outputs, both in pixels;
    `macs` counts multiply-adds, `bytes` the size of the output in float32.
    """

    layer: str
    shape: tuple[int, ...]
    field: int
    stride: int
    parameters: int
    macs: int
    bytes: int


def summarise(spec: Backbone) -> Sequence[LayerSummary]:
    """Summarises the stages of a backbone for a photo of its own size."""
    side, rows = spec.preprocessing.crop, []
    with torch.device("meta"), torch.inference_mode(), _ReceptiveFields() as fields:
        maps = torch.zeros(1, 3, side, side)
        for name, stage in load_stages(spec, None):
            with FlopCounterMode(display=False) as flops:
                maps = stage(maps)
            field, stride = fields.of(maps)
            shape = tuple(maps.shape[1:])
            parameters = sum(one.numel() for one in stage.parameters())
            flat = shape[:1] if shape[1:] == (1, 1) else shape
            macs, size = flops.get_total_flops() // 2, _FLOAT32_BYTES * maps[0].numel()
            rows.append(LayerSummary(name, flat, min(field, side), stride, parameters, macs, size))
    return rows


class _ReceptiveFields(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks the receptive field of each tensor: (side, stride) in pixels; the largest of an operation's inputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields: dict[int, tuple[int, int]] = {}
        self._tensors: list[torch.Tensor] = []  # kept alive, so that no id is used twice

    def of(self, maps: torch.Tensor) -> tuple[int, int]:
        """Receptive field and stride of a tensor."""
        return self._fields.get(id(maps), (1, 1))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation, and records the receptive fields of its outputs."""
        outputs = func(*args, **(kwargs or {}))
        inputs = [self.of(tensor) for tensor in _find_tensors(args)]
        field, stride = (max((pair[n] for pair in inputs), default=1) for n in (0, 1))
        kernel, step = _window(func, args)
        for tensor in _find_tensors(outputs):
            self._fields[id(tensor)] = field + (kernel - 1) * stride, stride * step
            self._tensors.append(tensor)
        return outputs


def _find_tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def _window(func: Any, args: Any) -> tuple[int, int]:
    """Kernel size and stride of an operation on maps; a product with a whole map has the map's size for both."""
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
