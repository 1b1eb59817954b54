"""Recipes of trained models: the recipe in a weights file in, a backbone like those of the registry out.

A recipe is a network of the registry up to a layer, and a head on it. All weights are in one safetensors file, whose
metadata has the recipe.   [torch]
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
from likeness.models.backbones.spec import Backbone, Built, Layer, PooledLayer
from likeness.models.space_name import layer_dimension, parse_layer, parse_preprocessing

if TYPE_CHECKING:
    import torch

FEATURES = "features"
_METADATA_KEY = "likeness"
_DOCS = {
    "logits": "class scores",
    "embedding": "vector whose neighbours are of the same category",
    "box": "left, top, right and bottom of the main subject, and its landmarks",
}


@dataclass(frozen=True)
class Recipe:
    """How a trained network is built: `backbone` and `layer` as in a space's name, and the head on that layer."""

    backbone: str
    layer: str
    head: Head | None
    classes: tuple[str, ...]
    licence: str

    @property
    def parts(self) -> tuple[PooledLayer, ...]:
        """The layers of the registry's network that the head takes."""
        return tuple(parse_layer(text) for text in self.layer.split("+"))

    @property
    def single_stage(self) -> bool:
        """Whether the network below the head is one stage, FEATURES.

        It is if the head takes several layers, or one whose shape depends on the size of the photo.
        """
        base = registry()[self.backbone.partition("-")[0]]
        return len(self.parts) > 1 or self.parts[0].layer not in _unchanged_layers(
            base, parse_preprocessing(base, self.backbone)
        )

    def metadata(self) -> dict[str, str]:
        """The metadata of a safetensors file with this recipe."""
        # in files the head is the field "top"
        fields = {"top" if name == "head" else name: value for name, value in asdict(self).items()}
        return {_METADATA_KEY: json.dumps(fields)}


def read_recipe(path: Path) -> Recipe | None:
    """Reads the recipe from a safetensors file; None if the file has none.

    Raises:
        DataError: the file is damaged.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
        if text is None:
            return None
        fields = json.loads(text)
        head = fields.pop("top")
        if head is not None:
            head = Head(**{**head, "hidden": tuple(head["hidden"])})
        return Recipe(**{**fields, "classes": tuple(fields["classes"]), "head": head})
    except OSError as error:
        raise UsageError(f"weights file {path}: {error.strerror or error}") from None
    except Exception as error:  # safetensors has exceptions of its own
        raise DataError(f"{path} is damaged, or not a safetensors file: {error}") from None


@functools.cache
def trained_backbone(name: str, recipe: Recipe) -> Backbone:
    """Builds the specification of a trained network under a name."""
    base = registry()[recipe.backbone.partition("-")[0]]
    preprocessing, last = parse_preprocessing(base, recipe.backbone), recipe.parts[0].layer
    if recipe.single_stage:
        dim = sum(layer_dimension(base, preprocessing, part) for part in recipe.parts)
        layers = {FEATURES: Layer((dim,), f"{recipe.layer} of {recipe.backbone}")}
    else:
        available, names = _unchanged_layers(base, preprocessing), list(base.layers)
        layers = {name: available[name] for name in names[: names.index(last) + 1] if name in available}
    if recipe.head:
        layers[recipe.head.layer] = Layer((recipe.head.outputs,), _DOCS[recipe.head.layer])
    return replace(
        base,
        name=name,
        doc=f"{recipe.backbone} up to {recipe.layer}, trained here",
        licence=recipe.licence,
        source="a model",
        preprocessing=preprocessing,
        layers=layers,
        weights=functools.partial(_weights_missing, name),
        network=functools.partial(_network, base, recipe),
        classes=(lambda: recipe.classes) if recipe.classes else None,
        published=None,
    )


def _unchanged_layers(base: Backbone, preprocessing: Preprocessing) -> dict[str, Layer]:
    """The layers whose shape does not depend on the size of the photo; all of them at the backbone's own size."""
    same = preprocessing.crop == base.preprocessing.crop
    return {name: layer for name, layer in base.layers.items() if same or (len(layer.shape) == 1 and not layer.dense)}


def _network(base: Backbone, recipe: Recipe) -> Built:
    from torch.nn import ModuleDict

    from likeness.models.backbones.network import FeatureStage, HeadStage

    _, stages = base.network()
    names, parts = [name for name, _ in stages], recipe.parts
    stages = list(stages[: max(names.index(part.layer) for part in parts) + 1])
    if recipe.single_stage:
        stages = [(FEATURES, FeatureStage(stages, parts))]
        parts = (PooledLayer(FEATURES),)
    if recipe.head:
        stages.append((recipe.head.layer, HeadStage(parts[0], recipe.head)))
    return ModuleDict(dict(stages)), stages


def _weights_missing(name: str) -> Path:
    """The default weights of a trained model: there are none but those in its file.

    Raises:
        ServiceError: always.
    """
    raise ServiceError(f"the weights of model {name} are not at their path", "`likeness models list` shows all models")


def write_model(path: Path, stages: "Mapping[str, torch.nn.Module]", recipe: Recipe) -> None:
    """Writes a trained network's weights and its recipe to a safetensors file; `stages` are the recipe's, by name."""
    from safetensors.torch import save_file
    from torch.nn import ModuleDict

    state = {name: value.detach().cpu().contiguous() for name, value in ModuleDict(stages).state_dict().items()}
    save_file(state, path, recipe.metadata())
