"""Finding feature spaces by the settings of a root: registry backbones, weights files and trained models."""

from likeness.core.errors import SpaceMismatch, UsageError
from likeness.core.settings import Settings
from likeness.models.backbones import Space, registry, resolve
from likeness.models.model_registry import ModelRegistry


def space_of(settings: Settings, name: str = "") -> Space:
    """Finds a space by name, `extract.space` by default: a registry backbone, a weights file, or a model of the root.

    A pinned name may be of any version of a model.

    Raises:
        UsageError: there is no such space.
        SpaceMismatch: the name is pinned, and no version gives that space.
    """
    extract, name = settings.extract, name or settings.extract.space
    model = name.partition("@")[0].partition(".")[0].partition("-")[0]
    if extract.weights or model in registry():
        return resolve(name, extract.weights, extract.cache)
    models = ModelRegistry(settings.root, extract.cache)
    if model not in models.names():
        return resolve(name, "", extract.cache)
    first_id = ""
    for space in models.spaces(name):
        if "@" not in name or space.id == name:
            return space
        first_id = first_id or space.id
    raise SpaceMismatch(f"space {name!r}: no version of model {model} gives it (the one in service gives {first_id})")


def spaces_of(settings: Settings) -> tuple[Space, ...]:
    """The spaces of `extract.space` and `extract.also`, whose vectors one forward pass of one network gives.

    Raises:
        UsageError: there is no such space, or one of them is of another network.
    """
    first = space_of(settings)
    spaces = {first.id: first}
    for name in settings.extract.also:
        space = space_of(settings, name)
        if (space.backbone, space.weights_sha256) != (first.backbone, first.weights_sha256):
            raise UsageError(
                f"extract.also = {name!r}: its network is {space.backbone}, that of extract.space {first.backbone}; "
                f"extract {space.backbone} in a run of its own"
            )
        spaces[space.id] = space
    return tuple(spaces.values())
