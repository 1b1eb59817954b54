"""The encoder: a photo to a vector, with the extraction code itself."""

import os
from collections.abc import Collection

import numpy as np

from likeness.core.errors import SpaceMismatch
from likeness.core.settings import Settings
from likeness.images.image import WHOLE, Box
from likeness.images.query_views import QueryView
from likeness.models.extractor import Extractor
from likeness.models.model_registry import space_of
from likeness.models.runtimes import machine, open_runtime
from likeness.serving.micro_batching import BatchedRuntime


class Encoder:
    """The network of one feature space, loaded."""

    def __init__(self, settings: Settings, space: str) -> None:
        """Loads the network.

        Raises:
            SpaceMismatch: the weights at hand are not those of the space.
        """
        self.space = space_of(settings, space)
        if self.space.id != space:
            raise SpaceMismatch(f"the network at hand gives {self.space.id}, not {space}; name its weights")
        cores = os.cpu_count() or 1
        runtime = BatchedRuntime(open_runtime(self.space, settings.extract.runtime, machine(settings, cores)))
        self._extractor = Extractor(
            self.space, runtime, settings.extract.model_copy(update={"decode_threads": cores}), settings.limits
        )

    def encode(self, photo: bytes, box: Box = WHOLE, looks: Collection[QueryView] = ()) -> np.ndarray:
        """The vectors of a photo, or of the part of it in a box, and of further looks of it, float32 (1 + n, dim).

        Raises:
            BadImage: why it has none.
        """
        return self._extractor.one(photo, box, looks)

    def warm_up(self) -> np.ndarray:
        """A vector of nothing, float32 (dim,): after it the network is as fast as it gets."""
        return self._extractor.blank()
