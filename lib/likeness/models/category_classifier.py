"""What a query shows, by a model of the root: vectors or photos in, categories with probabilities out. No torch.

A model whose head is on vectors of the space that is searched costs a product of matrices; any other runs a network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from likeness import storage
from likeness.core.settings import Settings
from likeness.core.statistics import softmax
from likeness.images.image import WHOLE, Box
from likeness.models.backbones.heads import Head
from likeness.models.model_card import ModelCard
from likeness.models.model_registry import ModelRegistry

if TYPE_CHECKING:
    from likeness.models.extractor import Extractor

CATEGORY = "category"
_SLOPE = 0.01


class NumpyHead:
    """The fully connected layers of a model, as `backbones.network.Perceptron` runs them."""

    def __init__(self, path: Path, top: Head) -> None:
        tensors = load_file(path)
        prefix = f"{top.layer}.top.linears"
        self._layers = [
            (tensors[f"{prefix}.{number}.weight"].T, tensors[f"{prefix}.{number}.bias"])
            for number in range(len(top.hidden) + 1)
        ]
        self._activation = top.activation

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """float32 (n, inputs) to (n, outputs)."""
        found = vectors
        for number, (weight, bias) in enumerate(self._layers):
            if number:
                found = _active(found, self._activation)
            found = found @ weight + bias
        return np.asarray(found)


def _active(found: np.ndarray, activation: str) -> np.ndarray:
    if activation == "maxout":
        half = found.shape[1] // 2
        return np.asarray(np.maximum(found[:, :half], found[:, half:]))
    below: Any = {"relu": 0.0, "leaky": _SLOPE * found, "elu": np.expm1(np.minimum(found, 0))}[activation]
    return np.where(found > 0, found, below)


@dataclass(frozen=True)
class CategoryClassifier:
    """A category model; `head` where it is on vectors of the space, else `extractor`, which wants the photo."""

    card: ModelCard
    head: NumpyHead | None
    extractor: "Extractor | None"

    def of_vectors(self, vectors: np.ndarray) -> np.ndarray | None:
        """Probabilities, float64 (n, classes), of vectors, float32 (n, dim); None if the model wants the photo."""
        return softmax(self.head(vectors)) if self.head else None

    def of_photo(self, photo: bytes, box: Box = WHOLE) -> np.ndarray | None:
        """Probabilities, float64 (1, classes), of a photo; None if the model wants its vector.

        Raises:
            BadImage: it cannot be used.
        """
        return softmax(self.extractor.one(photo, box)) if self.extractor else None

    def votes(self, probabilities: np.ndarray, categories: Mapping[str, int]) -> list[tuple[str, float]]:
        """Categories with the mean probability of rows, the best first; of those that a build has."""
        mean = probabilities.mean(axis=0)
        told = [(name, float(mean[number])) for number, name in enumerate(self.card.classes) if name in categories]
        return sorted(told, key=lambda vote: (-vote[1], vote[0]))


def category_model(settings: Settings) -> ModelCard | None:
    """The card of the category model in service, which `serve.category_model` names; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    models, name = ModelRegistry(settings.root, settings.extract.cache), settings.serve.category_model
    card = models.in_service(name) if name else None
    return card if card and card.task == CATEGORY else None


def load_category_classifier(settings: Settings, space: str, photos: bool = True) -> CategoryClassifier | None:
    """The category model in service, for queries of a space; None if there is none.

    Args:
        settings: of the root; `serve.category_model` names the model.
        space: the id of the space that is searched.
        photos: whether a model that wants photos is any use.

    Raises:
        DataError: the model is damaged.
    """
    card = category_model(settings)
    if card is None:
        return None
    own = ModelRegistry(settings.root, settings.extract.cache).space(card)
    assert own.recipe
    assert own.recipe.top
    if card.space == space and card.frozen:
        return CategoryClassifier(
            card, NumpyHead(storage.local_copy(own.weights_path, settings.extract.cache), own.recipe.top), None
        )
    if not photos:
        return None
    from likeness.models.extractor import Extractor
    from likeness.models.runtimes import machine, open_runtime

    runtime = open_runtime(own, settings.extract.runtime, machine(settings, 1))
    return CategoryClassifier(card, None, Extractor(own, runtime, settings.extract, settings.limits))
