"""Feature spaces: a name such as `alexnet.fc6` in, the space with its weights, its dimension and its hash out.

    BACKBONE[-SIDE][-SHAPE][-VIEWS].LAYER[.POOLING][.NORM][+LAYER...]

`vgg16-448-pad-flip.conv5_3.gem.root+fc6.max` has all of it.
"""

import difflib
import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import cast

from likeness import stores, uris
from likeness.backbones.families import registry
from likeness.backbones.spec import NORMS, POOLINGS, Backbone, Part
from likeness.errors import ServiceError, SpaceMismatch, UsageError
from likeness.images import SHAPES, VIEWS, Preprocessing, Shape, Views

_NONE = hashlib.sha256(b"").hexdigest()
_MOST_DIM, _MOST_SIDE = 65_536, 2048
_LATER = {one.name: one.default for one in fields(Preprocessing) if one.name in ("shape", "views")}
"""What a space's hash has only where it is not as it always was."""


@dataclass(frozen=True)
class Space:
    """A feature space: which network, layer, weights and preprocessing a vector came from.

    `backbone` and `layer` are as in the name. `weights_path` is an absolute path or a URI, or empty for a network
    without weights; workers elsewhere find the same bytes with `weights_file`.
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
        how = {name: value for name, value in asdict(self.preprocessing).items() if _LATER.get(name) != value}
        parts = [self.name, self.dim, self.weights_sha256, how]
        return f"{self.name}@{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"

    @property
    def spec(self) -> Backbone:
        """The backbone."""
        return registry()[self.backbone.partition("-")[0]]

    @property
    def preprocessing(self) -> Preprocessing:
        """How photos become the network's input: as the backbone has it, but for what the name says."""
        return _prepared(self.spec, self.backbone)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The layers, and how each becomes a part of the vector."""
        return tuple(_part(text) for text in self.layer.split("+"))

    def weights_file(self, cache: str) -> Path | None:
        """The weights on this machine: at their path, copied from their URI, or the backbone's own here.

        Raises:
            ServiceError: they are none of these.
        """
        own = self.spec.weights
        if own is None:
            return None
        try:
            path = stores.local_copy(self.weights_path, cache)
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
        weights: a weights file, a path or a URI; empty for the backbone's own.
        cache: folder for the copy of a file that is not local.

    Raises:
        UsageError: unknown backbone or layer, or a weights file that is not there.
        SpaceMismatch: the name is pinned to another hash.
        ServiceError: the backbone's own weights cannot be had.
    """
    plain, _, pinned = name.partition("@")
    spec, backbone, layer, dim = _find(plain)
    space = Space(backbone, layer, dim, *_weights(spec, weights, cache))
    if pinned and space.id != name:
        raise SpaceMismatch(
            f"extract.space = {name!r}, but the weights at {space.weights_path} give {space.id}; "
            "name the weights of that space with extract.weights, or take the pin off to begin a new space"
        )
    return space


def _weights(spec: Backbone, weights: str, cache: str) -> tuple[str, str]:
    """Checksum and place of the weights."""
    if spec.weights is None:
        return _NONE, ""
    here = uris.scheme(weights) == "file"
    place = str(_local(weights)) if weights and here else weights or str(spec.weights().absolute())
    try:
        path = stores.local_copy(place, cache)
    except FileNotFoundError:
        path = Path(place)
    if not path.is_file():
        raise UsageError(f"extract.weights = {weights!r}: no such file; name a safetensors or state-dict file")
    return _checksum(path), place


def _local(path: str) -> Path:
    return Path(path.removeprefix("file://")).expanduser().absolute()


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _find(name: str) -> tuple[Backbone, str, str, int]:
    """Backbone, its name and the layer's as they are written in the space's name, and the dimension."""
    known = registry()
    backbone, _, layers = name.partition(".")
    spec = known.get(backbone.partition("-")[0])
    parts = [_part(text) for text in layers.split("+")]
    if spec is None or any(part.layer not in spec.layers for part in parts):
        told = f"no such backbone and layer; did you mean {_nearest(name)}? known: {', '.join(known)}; "
        raise UsageError(f"extract.space = {name!r}: {told}`likeness backbones show NAME` lists the layers of one")
    try:
        how = _prepared(spec, backbone)
        dim = sum(_dim(spec, how, part) for part in parts)
    except ValueError as error:
        raise UsageError(f"extract.space = {name!r}: {error}") from None
    return spec, "-".join([spec.name, *_variants(spec, how)]), layers, dim


def _nearest(name: str) -> str:
    """The name of the layer that was meant, by the looks of it."""
    backbone, _, layer = name.partition(".")
    near = difflib.get_close_matches(backbone.partition("-")[0], registry(), n=1, cutoff=0)
    spec = registry()[near[0]]
    return f"{spec.name}.{next(iter(difflib.get_close_matches(layer, spec.layers, n=1)), spec.main)}"


def _part(text: str) -> Part:
    layer, *rest = text.split(".")
    pooling = rest.pop(0) if rest and rest[0] in POOLINGS else ""
    norm = rest.pop(0) if rest and rest[0] in NORMS else ""
    return Part(layer if not rest else text, pooling, norm)


def _prepared(spec: Backbone, backbone: str) -> Preprocessing:
    """The preprocessing that a backbone's name in a space asks for.

    Raises:
        ValueError: it cannot be had.
    """
    how = spec.preprocessing
    for word in backbone.split("-")[1:]:
        if word.isdecimal() and 16 <= int(word) <= _MOST_SIDE:
            how = replace(how, resize=round(how.resize * int(word) / how.crop), crop=int(word))
        elif word in SHAPES:
            how = replace(how, shape=cast(Shape, word))
        elif word in VIEWS:
            how = replace(how, views=cast(Views, word))
        else:
            known = f"a side of 16 to {_MOST_SIDE} pixels, {', '.join((*SHAPES, *VIEWS))}"
            raise ValueError(f"{word!r} is no way to prepare a photo; there are: {known}")
    return how


def _variants(spec: Backbone, how: Preprocessing) -> list[str]:
    """What of a preprocessing is not the backbone's own, as it is written in a name."""
    own, words = spec.preprocessing, list[str]()
    if how.crop != own.crop:
        words.append(str(how.crop))
    return [*words, *([how.shape] if how.shape != own.shape else []), *([how.views] if how.views != own.views else [])]


def _dim(spec: Backbone, how: Preprocessing, part: Part) -> int:
    """How many numbers a part has.

    Raises:
        ValueError: it cannot be had.
    """
    layer, larger = spec.layers[part.layer], how.crop != spec.preprocessing.crop
    if layer.dense and how.crop < spec.preprocessing.crop:
        raise ValueError(f"{part.layer} needs {spec.preprocessing.crop} pixels or more")
    if not part.pooling:
        if larger and (layer.dense or len(layer.shape) > 1):
            raise ValueError(f"{part.layer} of {how.crop} pixels is a map; add one of .{', .'.join(POOLINGS)}")
        dim = math.prod(layer.shape)
    elif len(layer.shape) == 1 and not (layer.dense and larger):
        raise ValueError(f"{part.layer} is a vector, there is nothing to pool")
    else:
        channels = layer.shape[0]
        dim = channels * (channels + 1) // 2 if part.pooling == "gram" else channels
    if dim > _MOST_DIM:
        told = "add one of .mean, .max, .gem" if part.pooling else f"add one of .{', .'.join(POOLINGS)}"
        raise ValueError(f"{part.layer} would be {dim} numbers, over {_MOST_DIM}; {told}")
    return dim
