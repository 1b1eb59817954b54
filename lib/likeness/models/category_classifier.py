"""Category classification of queries by the model in service: vectors or photos in, probabilities out. No torch.

A model whose head takes vectors of the searched space costs a matrix product; any other runs its network.
"""

import math
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
_LEAKY_SLOPE = 0.01


class NumpyHead:
    """The head of a model in numpy; computes what `backbones.network.MLP` computes."""

    def __init__(self, path: Path, head: Head) -> None:
        tensors = load_file(path)
        prefix = f"{head.layer}.top.linears"
        self._layers = [
            (tensors[f"{prefix}.{number}.weight"].T, tensors[f"{prefix}.{number}.bias"])
            for number in range(len(head.hidden) + 1)
        ]
        self._activation = head.activation

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Computes the outputs for vectors: float32 (n, inputs) to (n, outputs)."""
        values = vectors
        for number, (weight, bias) in enumerate(self._layers):
            if number:
                values = _activate(values, self._activation)
            values = values @ weight + bias
        return np.asarray(values)


def _activate(values: np.ndarray, activation: str) -> np.ndarray:
    if activation == "maxout":
        half = values.shape[1] // 2
        return np.asarray(np.maximum(values[:, :half], values[:, half:]))
    negative: Any = {"relu": 0.0, "leaky": _LEAKY_SLOPE * values, "elu": np.expm1(np.minimum(values, 0))}[activation]
    return np.where(values > 0, values, negative)


@dataclass(frozen=True)
class CategoryClassifier:
    """The category model in service.

    It has a `head` if it classifies vectors of the searched space, else an `extractor` that classifies photos.
    """

    card: ModelCard
    head: NumpyHead | None
    extractor: "Extractor | None"

    def predict_vectors(self, vectors: np.ndarray) -> np.ndarray | None:
        """Probabilities, float64 (n, classes), of vectors, float32 (n, dim); None if the model needs the photo."""
        return softmax(self.head(vectors)) if self.head else None

    def predict_photo(
        self, photo: bytes, box: Box = WHOLE, until: float = math.inf, costly: bool = False
    ) -> np.ndarray | None:
        """Probabilities, float64 (1, classes), of an encoded photo; None if the model needs its vector.

        Arguments and errors are those of `Extractor.extract_one`.
        """
        if self.extractor is None:
            return None
        return softmax(self.extractor.extract_one(photo, box, until=until, costly=costly))

    def rank_categories(self, probabilities: np.ndarray, categories: Mapping[str, int]) -> list[tuple[str, float]]:
        """Ranks the categories of a build by their mean probability over rows, the most probable first.

        Args:
            probabilities: float64 (n, classes).
            categories: those of the build; classes that it lacks are left out.
        """
        mean = probabilities.mean(axis=0)
        scores = [(name, float(mean[number])) for number, name in enumerate(self.card.classes) if name in categories]
        return sorted(scores, key=lambda score: (-score[1], score[0]))


def category_model_card(settings: Settings) -> ModelCard | None:
    """The card of the category model in service, named by `serve.category_model`; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    models, name = ModelRegistry(settings.root, settings.extract.cache), settings.serve.category_model
    card = models.in_service(name) if name else None
    return card if card and card.task == CATEGORY else None


def load_category_classifier(settings: Settings, space: str, photos: bool = True) -> CategoryClassifier | None:
    """Loads the category model in service for queries in a space; None if there is none.

    Args:
        settings: of the root; `serve.category_model` names the model.
        space: id of the searched space.
        photos: whether the caller has photos, so that a model that needs them can be used.

    Raises:
        DataError: the model is damaged.
    """
    card = category_model_card(settings)
    if card is None:
        return None
    model_space = ModelRegistry(settings.root, settings.extract.cache).space(card)
    head = model_space.recipe and model_space.recipe.head
    if head and card.space == space and card.frozen:
        path = storage.local_copy(model_space.weights_path, settings.extract.cache)
        return CategoryClassifier(card, NumpyHead(path, head), None)
    if not photos:
        return None
    from likeness.models.extractor import Extractor
    from likeness.models.runtimes import local_machine, open_runtime

    runtime = open_runtime(model_space, settings.extract.runtime, local_machine(settings, 1))
    return CategoryClassifier(card, None, Extractor(model_space, runtime, settings.extract, settings.limits))
