"""The registry of backbones: each module of this package lists its own in BACKBONES; `registry` collects them.

Other packages add backbones by an entry point of the group `likeness.backbones`: a `Backbone`, or a tuple of them.
"""

import functools
from importlib import metadata
from typing import Any

from likeness.core.errors import ServiceError
from likeness.models.backbones.spec import Backbone

GROUP = "likeness.backbones"


def registry() -> dict[str, Backbone]:
    """All backbones by name.

    Raises:
        ServiceError: a plugin cannot be loaded, or its name is taken.
    """
    from likeness.models.backbones import alexnet, efficientnet_lite, hog, inception, lenet, nin, resnet, vgg

    families = (efficientnet_lite, alexnet, vgg, nin, resnet, inception, lenet, hog)
    backbones = {spec.name: spec for family in families for spec in family.BACKBONES}
    for entry_point, spec in _plugins():
        if not isinstance(spec, Backbone) or spec.name in backbones:
            name = getattr(spec, "name", spec)
            raise ServiceError(f"{entry_point}: {name!r} is no Backbone, or its name is taken; mend or remove it")
        backbones[spec.name] = spec
    return backbones


@functools.cache
def _plugins() -> tuple[tuple[str, Any], ...]:
    """Descriptions and objects of the entry points, loaded once a process."""
    plugins = list[tuple[str, Any]]()
    for point in metadata.entry_points(group=GROUP):
        description = f"entry point {point.name} = {point.value}"
        try:
            loaded = point.load()
        except Exception as error:  # a plugin can raise anything
            raise ServiceError(f"{description}: {error!r}; mend or remove it") from None
        plugins += [(description, spec) for spec in (loaded if isinstance(loaded, tuple) else (loaded,))]
    return tuple(plugins)
