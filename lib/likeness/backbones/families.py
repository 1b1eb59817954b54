"""The families of backbones: a file here lists its `Backbone`s in BACKBONES; add its module to `_known`.

Packages of others add theirs by an entry point of the group `likeness.backbones`, a `Backbone` or a tuple of them.
"""

import functools
from collections.abc import Mapping
from importlib import metadata

from likeness.backbones.spec import Backbone
from likeness.errors import ServiceError

GROUP = "likeness.backbones"


def registry() -> dict[str, Backbone]:
    """Every known backbone by name.

    Raises:
        ServiceError: a package's backbone cannot be loaded, or its name is taken.
    """
    return dict(_known())


@functools.cache
def _known() -> Mapping[str, Backbone]:
    from likeness.backbones import alexnet, efficientnet_lite, hog, inception, lenet, nin, resnet, vgg

    families = (efficientnet_lite, alexnet, vgg, nin, resnet, inception, lenet, hog)
    found = {spec.name: spec for family in families for spec in family.BACKBONES}
    for point in metadata.entry_points(group=GROUP):
        try:
            loaded = point.load()
            added = loaded if isinstance(loaded, tuple) else (loaded,)
            wrong = [spec for spec in added if not isinstance(spec, Backbone) or spec.name in found]
        except Exception as error:  # whatever a package of others does
            raise ServiceError(f"entry point {point.name} = {point.value}: {error!r}; mend or remove it") from None
        if wrong:
            told = f"{getattr(wrong[0], 'name', wrong[0])!r} is no Backbone, or its name is taken"
            raise ServiceError(f"entry point {point.name} = {point.value}: {told}; mend or remove it")
        found |= {spec.name: spec for spec in added}
    return found
