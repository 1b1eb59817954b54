"""Import of Caffe's AlexNet, `bvlc_alexnet.npy`: a pickled dictionary in, a safetensors file out.

The unpickler accepts only the classes of NumPy arrays; it refuses anything else, and runs no code.
"""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from likeness.core.errors import UsageError

_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes as Python 2 pickled them
}
_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Finds a class that arrays need, and refuses all others."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
        return _ALLOWED[module, name]


def convert(archive: Path, to: Path) -> int:
    """Writes the weights for the backbone `alexnet_caffe`; returns the number of parameters.

    Raises:
        UsageError: the file is no such archive, or the target cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        state = _state(_read(archive))
    except (OSError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{archive} is no archive of Caffe's AlexNet ({reason}); name bvlc_alexnet.npy") from None
    try:
        save_file(state, to)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--to {to}: {error}; name a file that can be written") from None
    return sum(values.size for values in state.values())


def _read(archive: Path) -> Mapping[str, Sequence[np.ndarray]]:
    with archive.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, kind = reader(file)
        if not kind.hasobject:
            raise ValueError("it has plain numbers")
        unpickled = _Arrays(file, encoding="latin1").load()
    layers = unpickled.item() if isinstance(unpickled, np.ndarray) else unpickled
    if not isinstance(layers, Mapping):
        raise TypeError("it has no dictionary")
    return layers


def _state(layers: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Weights in torch's order: (out, in, h, w) for convolutions, (out, in) for fully connected layers."""
    state = {}
    for name in _LAYERS:
        weights, biases = (np.asarray(values, np.float32) for values in layers[name])
        if name.startswith("conv"):
            weights = weights.transpose(3, 2, 0, 1)
        elif name == "fc6":  # over maps of 256 x 6 x 6; the archive has the channels last
            weights = weights.reshape(6, 6, 256, -1).transpose(3, 2, 0, 1).reshape(weights.shape[1], -1)
        else:
            weights = weights.T
        state[f"{name}.weight"], state[f"{name}.bias"] = np.ascontiguousarray(weights), np.ascontiguousarray(biases)
    return state
