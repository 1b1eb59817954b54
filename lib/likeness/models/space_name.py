"""Parsing of space names: layers with poolings and norms, and preprocessing; text in, values out."""

import math
from dataclasses import replace
from typing import cast

from likeness.images.image import SHAPES, VIEWS, Preprocessing, Shape, Views
from likeness.models.backbones.spec import NORMS, POOLINGS, Backbone, PooledLayer

_MAX_DIM, _MAX_SIDE = 65_536, 2048


def parse_layer(text: str) -> PooledLayer:
    """Parses a layer with its pooling and norm, as `conv5_3.gem.root`."""
    layer, *rest = text.split(".")
    pooling = rest.pop(0) if rest and rest[0] in POOLINGS else ""
    norm = rest.pop(0) if rest and rest[0] in NORMS else ""
    return PooledLayer(layer if not rest else text, pooling, norm)


def parse_preprocessing(spec: Backbone, backbone: str) -> Preprocessing:
    """Parses the preprocessing from a backbone's name with variants, as `vgg16-448-pad-flip`.

    Raises:
        ValueError: a variant is unknown.
    """
    preprocessing = spec.preprocessing
    for word in backbone.split("-")[1:]:
        if word.isdecimal() and 16 <= int(word) <= _MAX_SIDE:
            resize = round(preprocessing.resize * int(word) / preprocessing.crop)
            preprocessing = replace(preprocessing, resize=resize, crop=int(word))
        elif word in SHAPES:
            preprocessing = replace(preprocessing, shape=cast(Shape, word))
        elif word in VIEWS:
            preprocessing = replace(preprocessing, views=cast(Views, word))
        else:
            choices = f"a side of 16 to {_MAX_SIDE} pixels, {', '.join((*SHAPES, *VIEWS))}"
            raise ValueError(f"{word!r} is no way to prepare a photo; there are: {choices}")
    return preprocessing


def preprocessing_words(spec: Backbone, preprocessing: Preprocessing) -> list[str]:
    """The variants in a space's name: where a preprocessing differs from the backbone's own."""
    default, words = spec.preprocessing, list[str]()
    if preprocessing.crop != default.crop:
        words.append(str(preprocessing.crop))
    if preprocessing.shape != default.shape:
        words.append(preprocessing.shape)
    if preprocessing.views != default.views:
        words.append(preprocessing.views)
    return words


def layer_dimension(spec: Backbone, preprocessing: Preprocessing, part: PooledLayer) -> int:
    """The dimension of the vector that a pooled layer gives.

    Raises:
        ValueError: the layer gives no vector at this size, or one that is too long.
    """
    layer, resized = spec.layers[part.layer], preprocessing.crop != spec.preprocessing.crop
    if layer.dense and preprocessing.crop < spec.preprocessing.crop:
        raise ValueError(f"{part.layer} needs {spec.preprocessing.crop} pixels or more")
    if not part.pooling:
        if resized and (layer.dense or len(layer.shape) > 1):
            raise ValueError(
                f"{part.layer} of {preprocessing.crop} pixels is a map; add one of .{', .'.join(POOLINGS)}"
            )
        dim = math.prod(layer.shape)
    elif len(layer.shape) == 1 and not (layer.dense and resized):
        raise ValueError(f"{part.layer} is a vector, there is nothing to pool")
    else:
        channels = layer.shape[0]
        dim = channels * (channels + 1) // 2 if part.pooling == "gram" else channels
    if dim > _MAX_DIM:
        remedy = "add one of .mean, .max, .gem" if part.pooling else f"add one of .{', .'.join(POOLINGS)}"
        raise ValueError(f"{part.layer} would be {dim} numbers, over {_MAX_DIM}; {remedy}")
    return dim
