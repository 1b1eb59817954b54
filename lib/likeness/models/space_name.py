"""The words of a space's name: layers with poolings and norms, and how photos are prepared; text in, values out."""

import math
from dataclasses import replace
from typing import cast

from likeness.images.image import SHAPES, VIEWS, Preprocessing, Shape, Views
from likeness.models.backbones.spec import NORMS, POOLINGS, Backbone, Part

_MOST_DIM, _MOST_SIDE = 65_536, 2048


def part(text: str) -> Part:
    """A layer with its pooling and norm, as they are written in a space's name."""
    layer, *rest = text.split(".")
    pooling = rest.pop(0) if rest and rest[0] in POOLINGS else ""
    norm = rest.pop(0) if rest and rest[0] in NORMS else ""
    return Part(layer if not rest else text, pooling, norm)


def prepared(spec: Backbone, backbone: str) -> Preprocessing:
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


def variants(spec: Backbone, how: Preprocessing) -> list[str]:
    """What of a preprocessing is not the backbone's own, as it is written in a name."""
    own, words = spec.preprocessing, list[str]()
    if how.crop != own.crop:
        words.append(str(how.crop))
    return [*words, *([how.shape] if how.shape != own.shape else []), *([how.views] if how.views != own.views else [])]


def dimension(spec: Backbone, how: Preprocessing, part: Part) -> int:
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
