"""Backbones: their specifications and networks, and the feature spaces of their layers.   [torch]

Nothing imports torch before a network is built.
"""

from likeness.models.backbones.registry import registry
from likeness.models.backbones.spec import Backbone, Layer, PooledLayer
from likeness.models.feature_space import Space, concatenated, resolve, untrained_space

__all__ = ["Backbone", "Layer", "PooledLayer", "Space", "concatenated", "registry", "resolve", "untrained_space"]
