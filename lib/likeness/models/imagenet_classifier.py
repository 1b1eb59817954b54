"""What a photo shows, by the classes that a network was trained on: photos in, classes with probabilities out."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.core.statistics import share, softmax
from likeness.images.image import SUFFIXES
from likeness.models.backbones import Space, registry
from likeness.models.extractor import Extractor
from likeness.models.model_registry import ModelRegistry, space_of
from likeness.models.runtimes import machine, open_runtime

_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Label:
    """A class, and how probable it is."""

    name: str
    probability: float


@dataclass(frozen=True)
class ClassificationResult:
    """How many of the photos of a labelled folder have their class first, or among the first five."""

    photos: int
    top1: int
    top5: int
    failures: Mapping[str, str]

    def plain(self) -> dict[str, object]:
        """As JSON has it: shares with the ends of their 95 % interval (Wilson 1927)."""
        shares = {"top1": share(self.top1, self.photos), "top5": share(self.top5, self.photos)}
        told = {name: vars(figure) for name, figure in shares.items()}
        return {"photos": self.photos, **told, "failures": dict(self.failures)}


class ImagenetClassifier:
    """The class scores of a backbone."""

    def __init__(self, settings: Settings, backbone: str, threads: int = 1) -> None:
        """Loads the network.

        Raises:
            UsageError: there is no such backbone, or it knows no classes.
        """
        self.space, self.names = class_scores(settings, backbone)
        given = settings.extract.model_copy(update={"decode_threads": threads})
        runtime = open_runtime(self.space, given.runtime, machine(settings, threads))
        self._extractor = Extractor(self.space, runtime, given, settings.limits)

    def labels(self, photo: bytes, k: int = 5) -> list[Label]:
        """The k most probable classes of a photo.

        Raises:
            BadImage: it cannot be used.
        """
        return best(self._extractor.one(photo)[0], self.names, k)

    def measure(self, folder: Path) -> ClassificationResult:
        """What the network is worth on a folder of folders of photos, each the name of a class.

        Raises:
            UsageError: it is not such a folder.
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
        return ClassificationResult(done, top1, top5, failures)

    def _photos(self, folder: Path) -> Iterator[tuple[Path, int]]:
        if not folder.is_dir():
            raise UsageError(f"--labels {folder}: no such folder; name one with a folder of photos for each class")
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
        numbers = _numbers([path.name for path in folders], self.names)
        unknown = [path.name for path in folders if path.name not in numbers]
        if unknown or not folders:
            told = f"{unknown[0]!r} is no class" if unknown else "it has no folders"
            raise UsageError(
                f"--labels {folder}: {told} of {self.space.backbone}; name each folder as a class "
                f"({self.names[0]}, {self.names[1]} ...), as its number, or all {len(self.names)} by WordNet id"
            )
        for path in folders:
            photos = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
            yield from ((photo, numbers[path.name]) for photo in photos)


def class_scores(settings: Settings, backbone: str) -> tuple[Space, Sequence[str]]:
    """The space of the class scores of a network, or of a model of the root, and the names of its classes.

    Raises:
        UsageError: there is no such network, or it knows no classes.
    """
    word, models = backbone.partition("-")[0], ModelRegistry(settings.root).names()
    spec = registry().get(word)
    if (spec and spec.classes) or word in models:
        space = space_of(settings, f"{backbone}.logits")
        if space.spec.classes:
            return space, space.spec.classes()
    known = ", ".join([*(name for name, one in registry().items() if one.classes), *models])
    raise UsageError(f"backbone {backbone!r}: no such network with classes; there are: {known}")


def best(scores: np.ndarray, names: Sequence[str], k: int) -> list[Label]:
    """The k most probable classes by their scores, float32 (classes,)."""
    probabilities = softmax(scores[None])[0]
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [Label(names[number], float(probabilities[number])) for number in order]


def _numbers(folders: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """Folders' names to the numbers of their classes; those that name none are left out."""
    known = {name.casefold(): number for number, name in reversed(list(enumerate(names)))}
    folders = list(folders)
    if len(folders) == len(names) and all(map(_WNID.fullmatch, folders)):
        return {name: number for number, name in enumerate(sorted(folders))}  # ImageNet numbers them so
    found = {}
    for name in folders:
        number = int(name) if name.isdecimal() else known.get(name.replace("_", " ").casefold(), len(names))
        if number < len(names):
            found[name] = number
    return found
