"""Networks that were trained here: the recipe in a weights file in, a backbone like those of the registry out.

A recipe is a network of the registry up to a layer, and what was put on top of it. The weights of all of it are in one
safetensors file, whose metadata has the recipe.   [torch]
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from likeness.core.errors import DataError, ServiceError, UsageError
from likeness.images.image import Preprocessing
from likeness.models.backbones.heads import Head
from likeness.models.backbones.registry import registry
from likeness.models.backbones.spec import Backbone, Layer, Part
from likeness.models.space_name import dimension, part, prepared

if TYPE_CHECKING:
    import torch

    from likeness.models.backbones.spec import Built

FEATURES = "features"
_KEY = "likeness"
_DOCS = {
    "logits": "class scores",
    "embedding": "vector whose neighbours are of the same category",
    "box": "left, top, right and bottom of the main subject, and its landmarks",
}


@dataclass(frozen=True)
class Recipe:
    """What a trained network is made of: `backbone` and `layer` as in a space's name, and what is on top."""

    backbone: str
    layer: str
    top: Head | None
    classes: tuple[str, ...]
    licence: str

    @property
    def parts(self) -> tuple[Part, ...]:
        """The layers of the registry's network that the top is put on."""
        return tuple(part(text) for text in self.layer.split("+"))

    @property
    def whole(self) -> bool:
        """Whether the network is one stage, FEATURES: of several layers, or of one whose shape follows the photo."""
        base = registry()[self.backbone.partition("-")[0]]
        return len(self.parts) > 1 or self.parts[0].layer not in _layers(base, prepared(base, self.backbone))

    def metadata(self) -> dict[str, str]:
        """As a safetensors file has it."""
        return {_KEY: json.dumps(asdict(self))}


def recipe_of(path: Path) -> Recipe | None:
    """The recipe in a safetensors file; None in a file that has none.

    Raises:
        DataError: the file is damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            told = (file.metadata() or {}).get(_KEY)
        if told is None:
            return None
        found = json.loads(told)
        top = found.pop("top")
        if top is not None:
            top = Head(**{**top, "hidden": tuple(top["hidden"])})
        return Recipe(**{**found, "classes": tuple(found["classes"]), "top": top})
    except OSError as error:
        raise UsageError(f"weights file {path}: {error.strerror or error}") from None
    except Exception as error:  # safetensors has one of its own
        raise DataError(f"{path} is damaged, or no safetensors file: {error}") from None


@functools.cache
def backbone(name: str, recipe: Recipe) -> Backbone:
    """The backbone of that name that a recipe makes."""
    base = registry()[recipe.backbone.partition("-")[0]]
    how, last = prepared(base, recipe.backbone), recipe.parts[0].layer
    if recipe.whole:
        dim = sum(dimension(base, how, one) for one in recipe.parts)
        layers = {FEATURES: Layer((dim,), f"{recipe.layer} of {recipe.backbone}")}
    else:
        known, names = _layers(base, how), list(base.layers)
        layers = {one: known[one] for one in names[: names.index(last) + 1] if one in known}
    if recipe.top:
        layers[recipe.top.layer] = Layer((recipe.top.outputs,), _DOCS[recipe.top.layer])
    return replace(
        base,
        name=name,
        doc=f"{recipe.backbone} up to {recipe.layer}, trained here",
        licence=recipe.licence,
        source="a model",
        preprocessing=how,
        layers=layers,
        weights=functools.partial(_elsewhere, name),
        network=functools.partial(_network, base, recipe),
        classes=(lambda: recipe.classes) if recipe.classes else None,
        published=None,
    )


def _layers(base: Backbone, how: Preprocessing) -> dict[str, Layer]:
    """The layers that are as they are in the registry, for photos of another size too: vectors, not maps."""
    same = how.crop == base.preprocessing.crop
    return {name: one for name, one in base.layers.items() if same or (len(one.shape) == 1 and not one.dense)}


def _network(base: Backbone, recipe: Recipe) -> "Built":
    from torch.nn import ModuleDict

    from likeness.models.backbones.network import Features, WithHead

    _, stages = base.network()
    names, parts = [name for name, _ in stages], recipe.parts
    stages = list(stages[: max(names.index(one.layer) for one in parts) + 1])
    if recipe.whole:
        stages = [(FEATURES, Features(stages, parts))]
        parts = (Part(FEATURES),)
    if recipe.top:
        stages.append((recipe.top.layer, WithHead(parts[0], recipe.top)))
    return ModuleDict(dict(stages)), stages


def _elsewhere(name: str) -> Path:
    """Where weights are when they are not where they were named.

    Raises:
        ServiceError: always.
    """
    raise ServiceError(f"the weights of model {name} are not where they were; `likeness models list` shows what is")


def write(path: Path, stages: "Mapping[str, torch.nn.Module]", recipe: Recipe) -> None:
    """Writes a trained network with its recipe; `stages` are those that the recipe makes, by name."""
    from safetensors.torch import save_file
    from torch.nn import ModuleDict

    state = {name: value.detach().cpu().contiguous() for name, value in ModuleDict(stages).state_dict().items()}
    save_file(state, path, recipe.metadata())
