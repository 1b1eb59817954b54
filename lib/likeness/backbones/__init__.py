"""Backbones and feature spaces: name to frozen spec, `backbone.layer` to a space with its hash.

A family is a file here that lists its `Backbone`s in BACKBONES; add its module to FAMILIES.
Nothing here imports torch before a network is built.   [torch]
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from likeness import stores, uris
from likeness.errors import ServiceError, SpaceMismatch, UsageError
from likeness.images import Preprocessing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layer:
    """A named layer: the dimension of its vector, and where it comes from."""

    dim: int
    doc: str


@dataclass(frozen=True)
class Backbone:
    """One network.

    `weights` finds the network's own weights file; `build(path, layer)` gives the network up to the
    layer, float32 (n, 3, crop, crop) normalised to float32 (n, dim), in evaluation mode.
    """

    name: str
    doc: str
    licence: str
    preprocessing: Preprocessing
    layers: Mapping[str, Layer]
    weights: Callable[[], Path]
    build: Callable[[Path, str], "torch.nn.Module"]


@dataclass(frozen=True)
class Space:
    """A feature space: which network, layer, weights and preprocessing a vector came from.

    `weights_path` is an absolute path or a URI; workers elsewhere find the same bytes with `weights_file`.
    """

    backbone: str
    layer: str
    dim: int
    weights_sha256: str
    weights_path: str

    @property
    def name(self) -> str:
        """`alexnet.fc6`."""
        return f"{self.backbone}.{self.layer}"

    @property
    def id(self) -> str:
        """`alexnet.fc6@1f3a9c02`: the name with a short hash of all that makes the vector."""
        spec = registry()[self.backbone]
        parts = [self.name, self.dim, self.weights_sha256, asdict(spec.preprocessing)]
        return f"{self.name}@{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"

    def weights_file(self, cache: str) -> Path:
        """The weights on this machine: at their path, copied from their URI, or the backbone's own here.

        Raises:
            ServiceError: they are none of these.
        """
        try:
            path = stores.local_copy(self.weights_path, cache)
            if not path.is_file():
                path = registry()[self.backbone].weights()
            if _checksum(path) == self.weights_sha256:
                return path
            found = f"{path} has other bytes"
        except OSError as error:
            found = str(error)
        raise ServiceError(
            f"the weights {self.weights_path} of {self.id} are not on this machine: {found}; "
            "name a file that every machine can read, as extract.weights = hdfs://..."
        )


def registry() -> dict[str, Backbone]:
    """Every known backbone by name."""
    from likeness.backbones import alexnet, efficientnet_lite

    return {spec.name: spec for family in (alexnet, efficientnet_lite) for spec in family.BACKBONES}


def resolve(name: str, weights: str = "", cache: str = "~/.cache/likeness") -> Space:
    """The space that `backbone.layer` or `backbone.layer@hash` names, with the weights found and hashed.

    Args:
        name: as in `extract.space`.
        weights: a weights file, a path or a URI; empty for the backbone's own.
        cache: folder for the copy of a file that is not local.

    Raises:
        UsageError: unknown backbone or layer, or a weights file that is not there.
        SpaceMismatch: the name is pinned to another hash.
        ServiceError: the backbone's own weights cannot be had.
    """
    plain, _, pinned = name.partition("@")
    spec, layer = _find(plain)
    here = uris.scheme(weights) == "file"
    place = str(_local(weights)) if weights and here else weights or str(spec.weights().absolute())
    try:
        path = stores.local_copy(place, cache)
    except FileNotFoundError:
        path = Path(place)
    if not path.is_file():
        raise UsageError(f"extract.weights = {weights!r}: no such file; name a safetensors or state-dict file")
    space = Space(spec.name, layer, spec.layers[layer].dim, _checksum(path), place)
    if pinned and space.id != name:
        raise SpaceMismatch(
            f"extract.space = {name!r}, but the weights at {path} give {space.id}; "
            "name the weights of that space with extract.weights, or take the pin off to begin a new space"
        )
    return space


def _local(path: str) -> Path:
    return Path(path.removeprefix("file://")).expanduser().absolute()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find(name: str) -> tuple[Backbone, str]:
    known = registry()
    backbone, _, layer = name.partition(".")
    if backbone in known and layer in known[backbone].layers:
        return known[backbone], layer
    names = [f"{spec.name}.{layer}" for spec in known.values() for layer in spec.layers]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"extract.space = {name!r}: no such backbone and layer; {meant}known: {', '.join(names)}")
