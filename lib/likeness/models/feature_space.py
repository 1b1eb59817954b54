"""Feature spaces: a name as `alexnet.fc6` in, the space with its weights, dimension and hash out.

    BACKBONE[-SIDE][-SHAPE][-VIEWS].LAYER[.POOLING][.NORM][+LAYER...]

`vgg16-448-pad-flip.conv5_3.gem.root+fc6.max` has every part.
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
from likeness.models.backbones.spec import Backbone, PooledLayer
from likeness.models.recipe import Recipe, read_recipe, trained_backbone
from likeness.models.space_name import layer_dimension, parse_layer, parse_preprocessing, preprocessing_words

_NO_WEIGHTS = hashlib.sha256(b"").hexdigest()
_HASHED_IF_SET = {field.name: field.default for field in fields(Preprocessing) if field.name in ("shape", "views")}
"""Fields that enter a space's hash only if they differ from their defaults, so that hashes from before them hold."""


@dataclass(frozen=True)
class Space:
    """A feature space: the network, layer, weights and preprocessing that vectors come from.

    `backbone` and `layer` are as in the name. `weights_path` is an absolute path or a URI, or empty for a network
    without weights; on other machines `weights_file` finds the same bytes. A trained model has a `recipe`; any other
    network is in the registry.
    """

    backbone: str
    layer: str
    dim: int
    weights_sha256: str
    weights_path: str
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        """The name without its hash, as `alexnet.fc6`."""
        return f"{self.backbone}.{self.layer}"

    @property
    def id(self) -> str:
        """The name with a short hash of all that determines the vector, as `alexnet.fc6@1f3a9c02`."""
        hashed = {
            name: value for name, value in asdict(self.preprocessing).items() if _HASHED_IF_SET.get(name) != value
        }
        parts = [self.name, self.dim, self.weights_sha256, hashed]
        return f"{self.name}@{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"

    @property
    def spec(self) -> Backbone:
        """The backbone's specification."""
        name = self.backbone.partition("-")[0]
        return trained_backbone(name, self.recipe) if self.recipe else registry()[name]

    @property
    def preprocessing(self) -> Preprocessing:
        """The backbone's preprocessing, with the variants in the name."""
        return parse_preprocessing(self.spec, self.backbone)

    @property
    def parts(self) -> tuple[PooledLayer, ...]:
        """The layers, with pooling and norm, whose vectors are concatenated."""
        return tuple(parse_layer(text) for text in self.layer.split("+"))

    def weights_file(self, cache: str) -> Path | None:
        """The path of the weights on this machine; None for a network without weights.

        They are at `weights_path`, copied from its URI, or the backbone's default weights here.

        Raises:
            ServiceError: none of these has the right checksum.
        """
        default_weights = self.spec.weights
        if default_weights is None:
            return None
        try:
            path = storage.local_copy(self.weights_path, cache)
            if not path.is_file():
                path = default_weights()
            if _checksum(path) == self.weights_sha256:
                return path
            reason = f"{path} has other bytes"
        except OSError as error:
            reason = str(error)
        raise ServiceError(
            f"the weights {self.weights_path} of {self.id} are not on this machine: {reason}; "
            "name a file that every machine can read, as extract.weights = hdfs://..."
        )


def resolve(name: str, weights: str = "", cache: str = "~/.cache/likeness") -> Space:
    """Finds the space of a name, which may be pinned by `@hash`; locates and hashes its weights.

    Args:
        name: as in `extract.space`.
        weights: path or URI of a weights file; empty for the backbone's default. The weights of a trained model give
            that model, under whatever name.
        cache: folder for copies of remote files.

    Raises:
        UsageError: unknown backbone or layer, or a missing weights file.
        SpaceMismatch: the name is pinned to another hash.
        ServiceError: the backbone's default weights cannot be found or downloaded.
    """
    plain, _, pinned = name.partition("@")
    backbone_name = plain.partition(".")[0].partition("-")[0]
    spec = registry().get(backbone_name)
    recipe = None
    if spec is None and weights:
        recipe = read_recipe(_local_file(weights, _location(weights), cache))
        spec = trained_backbone(backbone_name, recipe) if recipe else None
    spec, backbone, layer, dim = _parse(plain, spec)
    space = Space(backbone, layer, dim, *_weights(spec, weights, cache), recipe)
    if pinned and space.id != name:
        raise SpaceMismatch(
            f"extract.space = {name!r}, but the weights at {space.weights_path} give {space.id}; "
            "name the weights of that space with extract.weights, or remove the pin to start a new space"
        )
    return space


def concatenated(spaces: Sequence[Space]) -> Space:
    """The space whose vectors are the concatenated vectors of several layers of one network."""
    layer, dim = "+".join(space.layer for space in spaces), sum(space.dim for space in spaces)
    return replace(spaces[0], layer=layer, dim=dim)


def untrained_space(name: str) -> Space:
    """The space of a registry network whose weights are still to be trained.

    Raises:
        UsageError: unknown backbone or layer.
    """
    spec = registry().get(name.partition(".")[0].partition("-")[0])
    _, backbone, layer, dim = _parse(name, spec)
    return Space(backbone, layer, dim, "", "")


def _weights(spec: Backbone, weights: str, cache: str) -> tuple[str, str]:
    """Checksum and location of the weights."""
    if spec.weights is None:
        return _NO_WEIGHTS, ""
    location = _location(weights) if weights else str(spec.weights().absolute())
    return _checksum(_local_file(weights, location, cache)), location


def _location(weights: str) -> str:
    """An absolute path, or the URI of a remote file."""
    if uris.scheme(weights) != "file":
        return weights
    return str(Path(weights.removeprefix("file://")).expanduser().absolute())


def _local_file(weights: str, location: str, cache: str) -> Path:
    """The weights file on this machine, copied there if it is remote.

    Raises:
        UsageError: there is none.
    """
    try:
        path = storage.local_copy(location, cache)
    except FileNotFoundError:
        path = Path(location)
    if not path.is_file():
        raise UsageError(f"extract.weights = {weights!r}: no such file; name a safetensors or state-dict file")
    return path


def _checksum(path: Path) -> str:
    status = path.stat()
    return _cached_checksum(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(64)
def _cached_checksum(path: Path, _changed: int, _size: int) -> str:
    """SHA-256 of a file, which is read once as long as its time and size are the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(name: str, spec: Backbone | None) -> tuple[Backbone, str, str, int]:
    """Parses a space's name to the backbone's specification, its name with variants, the layers and the dimension."""
    backbone, _, layers = name.partition(".")
    parts = [parse_layer(text) for text in layers.split("+")]
    if spec is None or any(part.layer not in spec.layers for part in parts):
        backbones = registry() | ({spec.name: spec} if spec else {})
        raise UsageError(
            f"extract.space = {name!r}: no such backbone and layer; did you mean {_closest(name, backbones)}? "
            f"known: {', '.join(backbones)}",
            "`likeness backbones show NAME` lists the layers of one",
        )
    try:
        preprocessing = parse_preprocessing(spec, backbone)
        dim = sum(layer_dimension(spec, preprocessing, part) for part in parts)
    except ValueError as error:
        raise UsageError(f"extract.space = {name!r}: {error}") from None
    return spec, "-".join([spec.name, *preprocessing_words(spec, preprocessing)]), layers, dim


def _closest(name: str, backbones: dict[str, Backbone]) -> str:
    """The existing space name with the most similar spelling."""
    backbone, _, layer = name.partition(".")
    (closest,) = difflib.get_close_matches(backbone.partition("-")[0], backbones, n=1, cutoff=0)
    spec = backbones[closest]
    return f"{spec.name}.{next(iter(difflib.get_close_matches(layer, spec.layers, n=1)), spec.default_layer)}"
