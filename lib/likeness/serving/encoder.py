"""The photo encoder: a photo in, its vectors out, by the same code as extraction."""

import math
import os
from collections.abc import Collection

import numpy as np

from likeness.core.errors import SpaceMismatch
from likeness.core.settings import Settings
from likeness.images.image import WHOLE, Box
from likeness.images.query_views import QueryView
from likeness.models.extractor import Extractor
from likeness.models.runtimes import local_machine, open_runtime
from likeness.models.spaces import space_of
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
        runtime = BatchedRuntime(open_runtime(self.space, settings.extract.runtime, local_machine(settings, cores)))
        extract = settings.extract.model_copy(update={"decode_threads": cores})
        self._extractor = Extractor(self.space, runtime, extract, settings.limits)

    def encode(
        self,
        photo: bytes,
        box: Box = WHOLE,
        looks: Collection[QueryView] = (),
        until: float = math.inf,
        costly: bool = False,
    ) -> np.ndarray:
        """Encodes a photo, or the part of it in a box, and further views of it, float32 (1 + n, dim).

        Arguments and errors are those of `Extractor.extract_one`.
        """
        return self._extractor.extract_one(photo, box, looks, until, costly)

    def warm_up(self) -> np.ndarray:
        """Runs the network once, so that later passes are fast; returns the vector, float32 (dim,)."""
        return self._extractor.warm_up()
