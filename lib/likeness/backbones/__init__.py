"""Backbones and feature spaces: name to frozen spec, `backbone.layer` to a space with its hash.   [torch]

Nothing here imports torch before a network is built.
"""

from likeness.backbones.families import registry
from likeness.backbones.spaces import Space, joined, resolve, weightless
from likeness.backbones.spec import Backbone, Layer, Part

__all__ = ["Backbone", "Layer", "Part", "Space", "joined", "registry", "resolve", "weightless"]
