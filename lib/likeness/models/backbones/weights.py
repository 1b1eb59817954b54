"""Weights files: a path in, a checked state dict out. Never unpickles code.   [torch, safetensors]"""

import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from likeness.core.errors import ServiceError, UsageError

if TYPE_CHECKING:
    import torch

_TORCHVISION = "https://download.pytorch.org/models"
_CONNECT_S = 10.0


def load_into(model: "torch.nn.Module", path: Path) -> "torch.nn.Module":
    """Loads the weights of a file into a network, and puts it in evaluation mode.

    Raises:
        UsageError: the file is no state dict, or of another network.
    """
    try:
        model.load_state_dict(read_tensors(path), assign=True)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"weights file {path} does not fit {type(model).__name__}: {first}; "
            "name a safetensors file or a torch state dict of this network"
        ) from None
    return model.float().eval()


def read_tensors(path: Path) -> dict[str, "torch.Tensor"]:
    """Reads a file's tensors by name, without running any code in it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def weights_not_published(name: str, where: str) -> Path:
    """The default weights of a network for which none can be downloaded.

    Raises:
        ServiceError: always; names the remedy.
    """
    raise ServiceError(
        f"{name} comes without weights",
        f"name a file of them with --set extract.weights=FILE, a safetensors file or a torch state dict ({where})",
    )


def torchvision_file(filename: str) -> Path:
    """The path of a torchvision weights file in torch's cache, downloaded there if it is missing.

    Raises:
        ServiceError: it is not cached and cannot be downloaded; names both remedies.
    """
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    path = Path(home).expanduser() / "hub" / "checkpoints" / filename
    if path.is_file():
        return path
    import torch

    address = f"{_TORCHVISION}/{filename}"
    try:
        with urllib.request.urlopen(address, timeout=_CONNECT_S):  # torch's own download has no timeout
            path.parent.mkdir(parents=True, exist_ok=True)
        checksum = path.stem.rpartition("-")[2]  # file names end with the first digits of their SHA-256
        torch.hub.download_url_to_file(address, str(path), hash_prefix=checksum, progress=False)
    except Exception as error:
        raise ServiceError(
            f"torchvision's weights {filename} are not in {path.parent} and cannot be downloaded ({error})",
            "copy the file there, or name a weights file with --set extract.weights=FILE",
        ) from None
    return path
