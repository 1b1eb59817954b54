"""Feature spaces: a name such as `alexnet.fc6` in, the space with its weights, its dimension and its hash out.

    BACKBONE[-SIDE][-SHAPE][-VIEWS].LAYER[.POOLING][.NORM][+LAYER...]

`vgg16-448-pad-flip.conv5_3.gem.root+fc6.max` has all of it.
"""

import difflib
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from likeness import storage
from likeness.core import uris
from likeness.core.errors import ServiceError, SpaceMismatch, UsageError
from likeness.images.image import Preprocessing
from likeness.models.backbones.registry import registry
from likeness.models.backbones.spec import Backbone, Part
from likeness.models.recipe import Recipe, recipe_of
from likeness.models.recipe import backbone as trained
from likeness.models.space_name import dimension, part, prepared, variants

_NONE = hashlib.sha256(b"").hexdigest()
_LATER = {one.name: one.default for one in fields(Preprocessing) if one.name in ("shape", "views")}
"""What a space's hash has only where it is not as it always was."""


@dataclass(frozen=True)
class Space:
    """A feature space: which network, layer, weights and preprocessing a vector came from.

    `backbone` and `layer` are as in the name. `weights_path` is an absolute path or a URI, or empty for a network
    without weights; workers elsewhere find the same bytes with `weights_file`. A network that was trained here has a
    `recipe`; the others are in the registry.
    """

    backbone: str
    layer: str
    dim: int
    weights_sha256: str
    weights_path: str
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        """`alexnet.fc6`."""
        return f"{self.backbone}.{self.layer}"

    @property
    def id(self) -> str:
        """`alexnet.fc6@1f3a9c02`: the name with a short hash of all that makes the vector."""
        how = {name: value for name, value in asdict(self.preprocessing).items() if _LATER.get(name) != value}
        parts = [self.name, self.dim, self.weights_sha256, how]
        return f"{self.name}@{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"

    @property
    def spec(self) -> Backbone:
        """The backbone."""
        word = self.backbone.partition("-")[0]
        return trained(word, self.recipe) if self.recipe else registry()[word]

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos become the network's input: as the backbone has it, but for what the name says."""
        return prepared(self.spec, self.backbone)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The layers, and how each becomes a part of the vector."""
        return tuple(part(text) for text in self.layer.split("+"))

    def weights_file(self, cache: str) -> Path | None:
        """The weights on this machine: at their path, copied from their URI, or the backbone's own here.

        Raises:
            ServiceError: they are none of these.
        """
        own = self.spec.weights
        if own is None:
            return None
        try:
            path = storage.local_copy(self.weights_path, cache)
            if not path.is_file():
                path = own()
            if _checksum(path) == self.weights_sha256:
                return path
            found = f"{path} has other bytes"
        except OSError as error:
            found = str(error)
        raise ServiceError(
            f"the weights {self.weights_path} of {self.id} are not on this machine: {found}; "
            "name a file that every machine can read, as extract.weights = hdfs://..."
        )


def resolve(name: str, weights: str = "", cache: str = "~/.cache/likeness") -> Space:
    """The space that a name, pinned by `@hash` or not, stands for, with the weights found and hashed.

    Args:
        name: as in `extract.space`.
        weights: a weights file, a path or a URI; empty for the backbone's own. A file of a network that was trained
            here gives that network, by whatever name.
        cache: folder for the copy of a file that is not local.

    Raises:
        UsageError: unknown backbone or layer, or a weights file that is not there.
        SpaceMismatch: the name is pinned to another hash.
        ServiceError: the backbone's own weights cannot be had.
    """
    plain, _, pinned = name.partition("@")
    word = plain.partition(".")[0].partition("-")[0]
    spec = registry().get(word)
    recipe = None
    if spec is None and weights:
        recipe = recipe_of(_file(weights, _place(weights), cache))
        spec = trained(word, recipe) if recipe else None
    spec, backbone, layer, dim = _find(plain, spec)
    space = Space(backbone, layer, dim, *_weights(spec, weights, cache), recipe)
    if pinned and space.id != name:
        raise SpaceMismatch(
            f"extract.space = {name!r}, but the weights at {space.weights_path} give {space.id}; "
            "name the weights of that space with extract.weights, or take the pin off to begin a new space"
        )
    return space


def joined(spaces: Sequence[Space]) -> Space:
    """The space whose vectors are those of several layers of one network, one after the other."""
    layer, dim = "+".join(space.layer for space in spaces), sum(space.dim for space in spaces)
    return replace(spaces[0], layer=layer, dim=dim)


def weightless(name: str) -> Space:
    """The space of a network of the registry that has no weights yet.

    Raises:
        UsageError: unknown backbone or layer.
    """
    word = name.partition(".")[0].partition("-")[0]
    _, backbone, layer, dim = _find(name, registry().get(word))
    return Space(backbone, layer, dim, "", "")


def _weights(spec: Backbone, weights: str, cache: str) -> tuple[str, str]:
    """Checksum and place of the weights."""
    if spec.weights is None:
        return _NONE, ""
    place = _place(weights) if weights else str(spec.weights().absolute())
    return _checksum(_file(weights, place, cache)), place


def _place(weights: str) -> str:
    return str(_local(weights)) if uris.scheme(weights) == "file" else weights


def _file(weights: str, place: str, cache: str) -> Path:
    """The weights on this machine.

    Raises:
        UsageError: there are none.
    """
    try:
        path = storage.local_copy(place, cache)
    except FileNotFoundError:
        path = Path(place)
    if not path.is_file():
        raise UsageError(f"extract.weights = {weights!r}: no such file; name a safetensors or state-dict file")
    return path


def _local(path: str) -> Path:
    return Path(path.removeprefix("file://")).expanduser().absolute()


def _checksum(path: Path) -> str:
    told = path.stat()
    return _hashed(path, told.st_mtime_ns, told.st_size)


@functools.lru_cache(64)
def _hashed(path: Path, _changed: int, _size: int) -> str:
    """One read of a file that several spaces of a run share, until it is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find(name: str, spec: Backbone | None) -> tuple[Backbone, str, str, int]:
    """Backbone, its name and the layer's as they are written in the space's name, and the dimension."""
    backbone, _, layers = name.partition(".")
    parts = [part(text) for text in layers.split("+")]
    if spec is None or any(part.layer not in spec.layers for part in parts):
        known = registry() | ({spec.name: spec} if spec else {})
        told = f"no such backbone and layer; did you mean {_nearest(name, known)}? known: {', '.join(known)}; "
        raise UsageError(f"extract.space = {name!r}: {told}`likeness backbones show NAME` lists the layers of one")
    try:
        how = prepared(spec, backbone)
        dim = sum(dimension(spec, how, part) for part in parts)
    except ValueError as error:
        raise UsageError(f"extract.space = {name!r}: {error}") from None
    return spec, "-".join([spec.name, *variants(spec, how)]), layers, dim


def _nearest(name: str, known: dict[str, Backbone]) -> str:
    """The name of the layer that was meant, by the looks of it."""
    backbone, _, layer = name.partition(".")
    near = difflib.get_close_matches(backbone.partition("-")[0], known, n=1, cutoff=0)
    spec = known[near[0]]
    return f"{spec.name}.{next(iter(difflib.get_close_matches(layer, spec.layers, n=1)), spec.main)}"
