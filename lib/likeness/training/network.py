"""A network that learns: a space in, its trained part and what is put on top out, written as a model in the end.

The stages before `unfreeze` stay as they are; what they give may be computed once, and is what the rest is fed with.
[torch]
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
from likeness.models.backbones.network import Features, Perceptron, Planes, WithHead, chain, fresh, vectors
from likeness.models.backbones.spec import Part
from likeness.models.recipe import FEATURES, Recipe
from likeness.training.augmentation import distorted, middle

ALL = "all"
"""In place of a stage: the whole network is trained."""
_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)


class Network(torch.nn.Module):
    """Vectors of a space, the maps before its stage `unfreeze`, or photos in; what the top gives out.

    Args:
        space: whose network is learned from; a single layer.
        top: what is put on its layer.
        unfreeze: the first stage that is trained: `all`, or none if empty.
        dropout: share of the top's hidden units that are left out at random.
        scratch: the network's own weights are forgotten, and random ones taken.
    """

    def __init__(
        self, space: Space, top: Head, cache: str, unfreeze: str = "", dropout: float = 0.0, scratch: bool = False
    ) -> None:
        super().__init__()
        if space.preprocessing.views != "single":
            plain = space.name.replace(f"-{space.preprocessing.views}", "")
            raise UsageError(
                f"space {space.name} is a mean over views of a photo, of which nothing is learned; "
                f"learn from {plain}, and ask for the views of the model that comes of it"
            )
        self.space, self.top, self.scratch = space, Perceptron(top, dropout), scratch
        self.shape, self.how = top, space.preprocessing
        self._recipe = self._made()
        stages = fresh(space.spec) if scratch else chain(space.spec, space.weights_file(cache))
        names = [name for name, _ in stages]
        stages = stages[: max(names.index(part.layer) for part in space.parts) + 1]
        self.part = space.parts[0]
        if self._recipe.whole and not space.recipe:
            stages, self.part = [(FEATURES, Features(stages, space.parts).eval())], Part(FEATURES)
        cut = _cut([name for name, _ in stages], unfreeze)
        self._frozen, self.trunk = dict(stages[:cut]), torch.nn.ModuleDict(dict(stages[cut:]))
        self._own_norms = any(isinstance(one, _NORMS) for one in self.trunk.modules())
        if scratch and not self._own_norms:
            _norm(self.trunk)
        self._planes = Planes(self.how)

    def train(self, mode: bool = True) -> "Network":
        """As torch has it; norms that were learned elsewhere keep their statistics."""
        super().train(mode)
        if mode and not self.scratch:
            for module in self.trunk.modules():
                if isinstance(module, _NORMS):
                    module.eval()
        return self

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Runs the trained part: vectors (n, dim), maps (n, c, h, w) or pixels (n, crop, crop, 3) to (n, outputs)."""
        found: torch.Tensor = self.top(self.below(given))
        return found

    def below(self, given: torch.Tensor) -> torch.Tensor:
        """What the top is fed with, float32 (n, inputs)."""
        if not self.trunk:
            return given
        if not self._frozen:
            given = self._planes(given)
        for stage in self.trunk.values():
            given = stage(given)
        return vectors(given, self.part)

    @torch.inference_mode()
    def before(self, photos: torch.Tensor) -> torch.Tensor:
        """What the frozen stages give for pixels, (n, crop, crop, 3): vectors or maps."""
        found: torch.Tensor = self._planes.to(photos.device)(photos)
        for stage in self._frozen.values():
            found = stage.to(photos.device)(found)
        return found if self.trunk else vectors(found, self.part)

    @property
    def frozen(self) -> Space:
        """The space of what the frozen stages give, so that any runtime gives it: maps are flattened in it."""
        if not self.trunk:
            return self.space
        one = self.before(torch.zeros((1, self.how.crop, self.how.crop, 3), dtype=torch.uint8))
        return replace(self.space, layer=list(self._frozen)[-1], dim=one.numel())

    def pixels(self, photos: torch.Tensor, draws: torch.Tensor | None) -> torch.Tensor:
        """Photos, uint8 (n, side, side, 3), as the network takes them: the middle, or distorted by `draws`."""
        return middle(photos, self.how).float() if draws is None else distorted(photos, draws, self.how)

    @property
    def eats(self) -> str:
        """`vectors`, `maps` or `photos`."""
        return "vectors" if not self.trunk else "maps" if self._frozen else "photos"

    def rates(self, rate: float, decay: float) -> list[dict[str, object]]:
        """Parameters by learning rate, for an optimiser: the top's, and each stage's, `decay` times that after it."""
        groups = [list(self.top.parameters()), *(list(stage.parameters()) for stage in [*self.trunk.values()][::-1])]
        filled = [one for one in groups if one]
        return [{"params": one, "lr": rate * decay**number} for number, one in enumerate(filled)]

    def write(self, path: Path, whole: bool = True, classes: tuple[str, ...] = (), temperature: float = 1.0) -> Recipe:
        """Writes the network, with its top or (not `whole`) without, as a model's weights; what it is made of.

        What the top gives is divided by `temperature`, so that the softmax of it is a probability.
        """
        self.eval()
        trunk = _folded(self.trunk) if self.scratch and not self._own_norms else self.trunk
        stages: dict[str, torch.nn.Module] = {**self._frozen, **dict(trunk.items())}
        written = replace(self._recipe, top=self.shape if whole else None, classes=classes)
        if whole:
            topped = WithHead(self.part, self.shape)
            topped.top = copy.deepcopy(self.top)
            for value in topped.top.linears[-1].parameters():
                value.data /= temperature
            stages[self.shape.layer] = topped
        recipe.write(path, stages, written)
        return written

    def _made(self) -> Recipe:
        """The recipe, from the network of the registry on: a model's own layers are those of its base."""
        base = self.space.recipe
        layer = base.layer if base and self.space.layer == FEATURES else self.space.layer
        name = base.backbone if base else self.space.backbone
        return Recipe(name, layer, self.shape, (), self.space.spec.licence)


def whole(how: Preprocessing) -> Preprocessing:
    """How photos are kept for training: the square of which `how` takes the middle, or all of it where it pads."""
    return replace(how, crop=how.crop if how.shape == "pad" else how.resize, views="single")


def _cut(names: list[str], unfreeze: str) -> int:
    if unfreeze in ("", ALL):
        return 0 if unfreeze else len(names)
    if unfreeze not in names:
        raise UsageError(f"train.unfreeze = {unfreeze!r}: no such stage; there are: {', '.join(names)}, {ALL}")
    return names.index(unfreeze)


def _linears(module: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Module]]:
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Conv2d | torch.nn.Linear):
            yield module, name, child
        else:
            yield from _linears(child)


def _norm(trunk: torch.nn.Module) -> None:
    """Puts a batch normalisation after each convolution and product, which learn much faster so."""
    for parent, name, child in _linears(trunk):
        if isinstance(child, torch.nn.Conv2d):
            pair = torch.nn.Sequential(child, torch.nn.BatchNorm2d(child.out_channels))
        else:
            pair = torch.nn.Sequential(child, torch.nn.BatchNorm1d(child.out_features))  # type: ignore[arg-type]
        parent._modules[name] = pair


def _folded(trunk: torch.nn.ModuleDict) -> torch.nn.ModuleDict:
    """The same network without them: each is a factor and a summand of the layer before."""
    found = copy.deepcopy(trunk)
    for parent in list(found.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Sequential) and len(child) == 2 and isinstance(child[1], _NORMS):
                before, norm = child[0], child[1]
                assert isinstance(norm, _NORMS)
                if isinstance(before, torch.nn.Conv2d):
                    parent._modules[name] = fuse_conv_bn_eval(before, norm)
                elif isinstance(before, torch.nn.Linear):
                    parent._modules[name] = fuse_linear_bn_eval(before, norm)
    return found
