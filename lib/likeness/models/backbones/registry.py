"""The families of backbones: a file here lists its `Backbone`s in BACKBONES; add its module to `registry`.

Packages of others add theirs by an entry point of the group `likeness.backbones`, a `Backbone` or a tuple of them.
"""

import functools
from importlib import metadata
from typing import Any

from likeness.core.errors import ServiceError
from likeness.models.backbones.spec import Backbone

GROUP = "likeness.backbones"


def registry() -> dict[str, Backbone]:
    """Every known backbone by name.

    Raises:
        ServiceError: a package's backbone cannot be loaded, or its name is taken.
    """
    from likeness.models.backbones import alexnet, efficientnet_lite, hog, inception, lenet, nin, resnet, vgg

    families = (efficientnet_lite, alexnet, vgg, nin, resnet, inception, lenet, hog)
    found = {spec.name: spec for family in families for spec in family.BACKBONES}
    for told, spec in _plugged():
        if not isinstance(spec, Backbone) or spec.name in found:
            name = getattr(spec, "name", spec)
            raise ServiceError(f"{told}: {name!r} is no Backbone, or its name is taken; mend or remove it")
        found[spec.name] = spec
    return found


@functools.cache
def _plugged() -> tuple[tuple[str, Any], ...]:
    """What entry points name, each with the words for it; a process looks once."""
    found = list[tuple[str, Any]]()
    for point in metadata.entry_points(group=GROUP):
        told = f"entry point {point.name} = {point.value}"
        try:
            loaded = point.load()
        except Exception as error:  # whatever a package of others does
            raise ServiceError(f"{told}: {error!r}; mend or remove it") from None
        found += [(told, one) for one in (loaded if isinstance(loaded, tuple) else (loaded,))]
    return tuple(found)
