"""The network that is trained: a frozen part, a trained part and a head; saved as a model in the end.   [torch]

The stages before `unfreeze` stay frozen. Their outputs can be computed once and are then the network's inputs.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from likeness.core.errors import UsageError
from likeness.images.image import Preprocessing
from likeness.models import recipe
from likeness.models.backbones import Space
from likeness.models.backbones.heads import Head
from likeness.models.backbones.network import (
    MLP,
    FeatureStage,
    HeadStage,
    NormalisePixels,
    load_stages,
    pool_maps,
    random_stages,
)
from likeness.models.backbones.spec import PooledLayer
from likeness.models.recipe import FEATURES, Recipe
from likeness.training.augmentation import augment, centre_crop

ALL = "all"
"""In place of a stage: the whole network is trained."""
_BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)


class Network(torch.nn.Module):
    """A network in training: vectors, maps before the stage `unfreeze`, or photos in; outputs of the head out.

    Args:
        space: the space whose network is trained.
        head: the head on its layer.
        cache: folder for copies of remote weights.
        unfreeze: the first stage that is trained; `all`, or empty for none.
        dropout: share of the head's hidden units that is dropped.
        scratch: the network starts from random weights.
    """

    def __init__(
        self, space: Space, head: Head, cache: str, unfreeze: str = "", dropout: float = 0.0, scratch: bool = False
    ) -> None:
        super().__init__()
        if space.preprocessing.views != "single":
            plain = space.name.replace(f"-{space.preprocessing.views}", "")
            raise UsageError(
                f"space {space.name} is a mean over views of a photo and cannot be trained; "
                f"train on {plain}, and use the trained model with these views"
            )
        self.space, self.head, self.scratch = space, MLP(head, dropout), scratch
        self.head_spec, self.preprocessing = head, space.preprocessing
        self._recipe = self._make_recipe()
        stages = random_stages(space.spec) if scratch else load_stages(space.spec, space.weights_file(cache))
        names = [name for name, _ in stages]
        stages = stages[: max(names.index(part.layer) for part in space.parts) + 1]
        self.part = space.parts[0]
        if self._recipe.single_stage and not space.recipe:
            stages, self.part = [(FEATURES, FeatureStage(stages, space.parts).eval())], PooledLayer(FEATURES)
        first_trained = _first_trained([name for name, _ in stages], unfreeze)
        self._frozen, self.trunk = dict(stages[:first_trained]), torch.nn.ModuleDict(dict(stages[first_trained:]))
        self._has_batch_norm = any(isinstance(module, _BATCH_NORMS) for module in self.trunk.modules())
        if scratch and not self._has_batch_norm:
            _add_batch_norm(self.trunk)
        self._normalise = NormalisePixels(self.preprocessing)

    def train(self, mode: bool = True) -> "Network":
        """As torch's, but batch normalisation with pretrained weights keeps its statistics."""
        super().train(mode)
        if mode and not self.scratch:
            for module in self.trunk.modules():
                if isinstance(module, _BATCH_NORMS):
                    module.eval()
        return self

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Vectors (n, dim), maps (n, c, h, w) or pixels (n, crop, crop, 3) to outputs (n, outputs)."""
        outputs: torch.Tensor = self.head(self.embed(inputs))
        return outputs

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Runs the trained stages; returns the inputs of the head, float32 (n, dim)."""
        if not self.trunk:
            return inputs
        if not self._frozen:
            inputs = self._normalise(inputs)
        for stage in self.trunk.values():
            inputs = stage(inputs)
        return pool_maps(inputs, self.part)

    @torch.inference_mode()
    def frozen_features(self, photos: torch.Tensor) -> torch.Tensor:
        """Runs the frozen stages on pixels, (n, crop, crop, 3); returns vectors, or maps."""
        maps: torch.Tensor = self._normalise.to(photos.device)(photos)
        for stage in self._frozen.values():
            maps = stage.to(photos.device)(maps)
        return maps if self.trunk else pool_maps(maps, self.part)

    @property
    def frozen_space(self) -> Space:
        """The space of the frozen stages' outputs, flattened, so that any runtime can compute them."""
        if not self.trunk:
            return self.space
        side = self.preprocessing.crop
        features = self.frozen_features(torch.zeros((1, side, side, 3), dtype=torch.uint8))
        return replace(self.space, layer=list(self._frozen)[-1], dim=features.numel())

    def crop(self, photos: torch.Tensor, draws: torch.Tensor | None) -> torch.Tensor:
        """Crops photos, uint8 (n, side, side, 3), to the network's size: augmented by `draws`, or in the centre."""
        if draws is None:
            return centre_crop(photos, self.preprocessing).float()
        return augment(photos, draws, self.preprocessing)

    @property
    def input_kind(self) -> str:
        """`vectors`, `maps` or `photos`."""
        return "vectors" if not self.trunk else "maps" if self._frozen else "photos"

    def parameter_groups(self, rate: float, decay: float) -> list[dict[str, list[torch.nn.Parameter] | float]]:
        """Parameters with learning rates: `rate` for the head, and for each stage `decay` times that of the next."""
        groups = [list(part.parameters()) for part in (self.head, *reversed(list(self.trunk.values())))]
        return [{"params": group, "lr": rate * decay**depth} for depth, group in enumerate(filter(None, groups))]

    def save(
        self, path: Path, with_head: bool = True, classes: tuple[str, ...] = (), temperature: float = 1.0
    ) -> Recipe:
        """Writes the network, with or without its head, as a model's weights; returns its recipe.

        The head's outputs are divided by `temperature`, so that their softmax is a calibrated probability.
        """
        self.eval()
        trunk = _fuse_batch_norm(self.trunk) if self.scratch and not self._has_batch_norm else self.trunk
        stages: dict[str, torch.nn.Module] = {**self._frozen, **dict(trunk.items())}
        saved = replace(self._recipe, head=self.head_spec if with_head else None, classes=classes)
        if with_head:
            stage = HeadStage(self.part, self.head_spec)
            stage.top = copy.deepcopy(self.head)
            for value in stage.top.linears[-1].parameters():
                value.data /= temperature
            stages[self.head_spec.layer] = stage
        recipe.write_model(path, stages, saved)
        return saved

    def _make_recipe(self) -> Recipe:
        """The recipe, from the registry's network on: a trained model's own layers are those of its base."""
        base = self.space.recipe
        layer = base.layer if base and self.space.layer == FEATURES else self.space.layer
        backbone = base.backbone if base else self.space.backbone
        return Recipe(backbone, layer, self.head_spec, (), self.space.spec.licence)


def cache_preprocessing(preprocessing: Preprocessing) -> Preprocessing:
    """The preprocessing of photos that are cached for training: before the crop, so that they can be augmented."""
    crop = preprocessing.crop if preprocessing.shape == "pad" else preprocessing.resize
    return replace(preprocessing, crop=crop, views="single")


def _first_trained(names: list[str], unfreeze: str) -> int:
    """The index of the first trained stage."""
    if unfreeze in ("", ALL):
        return 0 if unfreeze else len(names)
    if unfreeze not in names:
        raise UsageError(f"train.unfreeze = {unfreeze!r}: no such stage; there are: {', '.join(names)}, {ALL}")
    return names.index(unfreeze)


def _weighted_layers(
    module: torch.nn.Module,
) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Conv2d | torch.nn.Linear]]:
    """Convolutions and fully connected layers, each with its parent and its name there."""
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Conv2d | torch.nn.Linear):
            yield module, name, child
        else:
            yield from _weighted_layers(child)


def _add_batch_norm(trunk: torch.nn.Module) -> None:
    """Adds batch normalisation after each convolution and fully connected layer, for faster training."""
    for parent, name, child in _weighted_layers(trunk):
        maps = isinstance(child, torch.nn.Conv2d)
        norm = torch.nn.BatchNorm2d if maps else torch.nn.BatchNorm1d
        parent._modules[name] = torch.nn.Sequential(child, norm(len(child.weight)))


def _fuse_batch_norm(trunk: torch.nn.ModuleDict) -> torch.nn.ModuleDict:
    """An equivalent copy without the added batch normalisation, which is fused into the layers before it."""
    fused = copy.deepcopy(trunk)
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            match list(child.children()) if isinstance(child, torch.nn.Sequential) else []:
                case [torch.nn.Conv2d() as layer, torch.nn.BatchNorm2d() as norm]:
                    parent._modules[name] = fuse_conv_bn_eval(layer, norm)
                case [torch.nn.Linear() as layer, torch.nn.BatchNorm1d() as norm]:
                    parent._modules[name] = fuse_linear_bn_eval(layer, norm)
    return fused
