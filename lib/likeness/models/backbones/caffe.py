"""The published archive of Caffe's AlexNet, `bvlc_alexnet.npy`: a pickled dictionary in, a safetensors file out.

Only the classes that an array is pickled with are known to the loader; anything else is refused, nothing is run.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from likeness.core.errors import UsageError

_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
}
_POOLED = (256, 6, 6)
_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name."""
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs") from None


def _encoded(text: str, encoding: str) -> bytes:
    """How Python 2 and 3 agree on bytes."""
    return text.encode("latin1")


def convert(archive: Path, to: Path) -> int:
    """Writes the weights as the backbone `alexnet_caffe` takes them; returns how many parameters there are.

    Raises:
        UsageError: the archive is none, or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        state = _state(_read(archive))
    except (OSError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        told = f"{type(error).__name__}: {error}"
        raise UsageError(f"{archive} is no archive of Caffe's AlexNet ({told}); name bvlc_alexnet.npy") from None
    try:
        save_file(state, to)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--to {to}: {error}; name a file that can be written") from None
    return sum(values.size for values in state.values())


def _read(archive: Path) -> Mapping[str, Any]:
    with archive.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, kind = reader(file)
        if not kind.hasobject:
            raise ValueError("it holds plain numbers")
        found = _Arrays(file, encoding="latin1").load()
    layers = found.item() if isinstance(found, np.ndarray) else found
    if not isinstance(layers, Mapping):
        raise TypeError("it holds no dictionary")
    return layers


def _state(layers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Weights as torch has them: of convolutions (out, in, h, w), of fully connected layers (out, in)."""
    state = {}
    for name in _LAYERS:
        weights, biases = (np.asarray(values, np.float32) for values in layers[name])
        if name.startswith("conv"):
            weights = weights.transpose(3, 2, 0, 1)
        elif name == "fc6":  # the archive's maps have their channels last
            channels, height, width = _POOLED
            weights = weights.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(weights.shape[1], -1)
        else:
            weights = weights.T
        state[f"{name}.weight"], state[f"{name}.bias"] = np.ascontiguousarray(weights), np.ascontiguousarray(biases)
    return state
