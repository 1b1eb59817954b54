"""Classification of photos by the classes that a network was trained on: photos in, probabilities out."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.core.statistics import Figure, share, softmax
from likeness.images.image import SUFFIXES
from likeness.models.backbones import Space, registry
from likeness.models.extractor import Extractor
from likeness.models.model_registry import ModelRegistry
from likeness.models.runtimes import local_machine, open_runtime
from likeness.models.spaces import space_of

_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Label:
    """A class and its probability."""

    name: str
    probability: float


@dataclass(frozen=True)
class ClassificationResult:
    """Photos of a labelled folder, and the shares of them with their true class first (top-1) or among five (top-5)."""

    photos: int
    top1: Figure
    top5: Figure
    failures: Mapping[str, str]


class ImagenetClassifier:
    """A backbone with its classification head."""

    def __init__(self, settings: Settings, backbone: str, threads: int = 1) -> None:
        """Loads the network.

        Raises:
            UsageError: there is no such backbone, or it has no classes.
        """
        self.space, self.names = logits_space(settings, backbone)
        extract = settings.extract.model_copy(update={"decode_threads": threads})
        runtime = open_runtime(self.space, extract.runtime, local_machine(settings, threads))
        self._extractor = Extractor(self.space, runtime, extract, settings.limits)

    def labels(self, photo: bytes, k: int = 5) -> list[Label]:
        """The k most probable classes of a photo.

        Raises:
            BadImage: it cannot be used.
        """
        return top_labels(self._extractor.extract_one(photo)[0], self.names, k)

    def evaluate(self, folder: Path) -> ClassificationResult:
        """Measures the accuracy on a folder with a folder of photos for each class.

        Raises:
            UsageError: the folder is missing, or a folder in it names no class.
        """
        truth = dict(self._photos(folder))
        top1 = top5 = done = 0
        failures: dict[str, str] = {}
        for batch in self._extractor.run((str(path), path.read_bytes()) for path in truth):
            failures |= {key: str(bad) for key, bad in batch.failures}
            for key, scores in zip(batch.keys, batch.vectors, strict=True):
                first = np.argsort(-scores, kind="stable")[:5].tolist()
                done += 1
                top1 += first[0] == truth[Path(key)]
                top5 += truth[Path(key)] in first
        return ClassificationResult(done, share(top1, done), share(top5, done), failures)

    def _photos(self, folder: Path) -> Iterator[tuple[Path, int]]:
        if not folder.is_dir():
            raise UsageError(f"--labels {folder}: no such folder; name one with a folder of photos for each class")
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
        numbers = _numbers([path.name for path in folders], self.names)
        unknown = [path.name for path in folders if path.name not in numbers]
        if unknown or not folders:
            problem = f"{unknown[0]!r} is no class" if unknown else "it has no folders"
            raise UsageError(
                f"--labels {folder}: {problem} of {self.space.backbone}; name each folder as a class "
                f"({self.names[0]}, {self.names[1]} ...), as its number, or all {len(self.names)} by WordNet id"
            )
        for path in folders:
            photos = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
            yield from ((photo, numbers[path.name]) for photo in photos)


def logits_space(settings: Settings, backbone: str) -> tuple[Space, Sequence[str]]:
    """The space of a network's logits, and the names of its classes; the network may be a trained model of the root.

    Raises:
        UsageError: there is no such network, or it has no classes.
    """
    name, models = backbone.partition("-")[0], ModelRegistry(settings.root).names()
    spec = registry().get(name)
    if (spec and spec.classes) or name in models:
        space = space_of(settings, f"{backbone}.logits")
        if space.spec.classes:
            return space, space.spec.classes()
    names = ", ".join([*(name for name, other in registry().items() if other.classes), *models])
    raise UsageError(f"backbone {backbone!r}: no such network with classes; there are: {names}")


def top_labels(logits: np.ndarray, names: Sequence[str], k: int) -> list[Label]:
    """The k most probable classes by their logits, float32 (classes,)."""
    probabilities = softmax(logits[None])[0]
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [Label(names[number], float(probabilities[number])) for number in order]


def _numbers(folders: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """Numbers of the classes that folders name; folders that name none are left out."""
    by_name = {name.casefold(): number for number, name in reversed(list(enumerate(names)))}
    folders = list(folders)
    if len(folders) == len(names) and all(map(_WNID.fullmatch, folders)):
        return {name: number for number, name in enumerate(sorted(folders))}  # ImageNet numbers them so
    numbers = {}
    for name in folders:
        number = int(name) if name.isdecimal() else by_name.get(name.replace("_", " ").casefold(), len(names))
        if number < len(names):
            numbers[name] = number
    return numbers
