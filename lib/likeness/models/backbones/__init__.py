"""Backbones and feature spaces: name to frozen spec, `backbone.layer` to a space with its hash.   [torch]

Nothing here imports torch before a network is built.
"""

from likeness.models.backbones.registry import registry
from likeness.models.backbones.spec import Backbone, Layer, Part
from likeness.models.feature_space import Space, joined, resolve, weightless

__all__ = ["Backbone", "Layer", "Part", "Space", "joined", "registry", "resolve", "weightless"]
