"""Evaluation sets: products that no model is trained on, frozen under a name and a version.

ROOT/evaluation/NAME/0001.json is written once. Models are compared only on the same version of the same set.
"""

import datetime
import hashlib
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from likeness import storage
from likeness.catalog.annotations import Annotation, annotations
from likeness.core import uris
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Settings
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS

_MAX_LISTED = 3


class EvaluationSet(BaseModel):
    """One version of an evaluation set: its photos by image_id; `made_of` says how they were chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: str
    version: str
    created: datetime.datetime = Field(alias="made")
    made_of: str
    snapshot: int
    photos: Mapping[str, Annotation]

    @property
    def id(self) -> str:
        """`NAME@VERSION`."""
        return f"{self.name}@{self.version}"

    @property
    def products(self) -> set[str]:
        """All products of its photos."""
        return {product for photo in self.photos.values() for product in photo.products}


class EvaluationSets:
    """The evaluation sets of one root."""

    def __init__(self, root: str) -> None:
        self.folder = uris.join(uris.canonical(root), "evaluation")
        self._files = storage.files(self.folder)

    def names(self) -> list[str]:
        """The names of all sets as `NAME@VERSION`, by name and age."""
        files = ((name, self._files.names(uris.join(self.folder, name))) for name in self._files.names(self.folder))
        return [f"{name}@{version.removesuffix('.json')}" for name, versions in files for version in versions]

    def find(self, name: str = "") -> EvaluationSet | None:
        """Finds a set by `NAME` (its newest version) or `NAME@VERSION`; if empty, the newest of all, or None.

        Raises:
            UsageError: there is no such set.
            DataError: its file is damaged.
        """
        ids = self.names()
        if not name:
            newest = [self._read(version) for version in {one.partition("@")[0]: one for one in ids}.values()]
            return max(newest, key=lambda version: version.created, default=None)
        versions = [one for one in ids if name in (one, one.partition("@")[0])]
        if not versions:
            raise UsageError(f"evaluation set {name!r} is not in {self.folder}; there are: {', '.join(ids) or 'none'}")
        return self._read(versions[-1])

    def freeze(self, settings: Settings, name: str, where: str, share: float) -> EvaluationSet:
        """Writes the next version of a set.

        Args:
            settings: of the root.
            name: of the set.
            where: `attribute=value` of the listings to choose; empty for a random share.
            share: of the products to choose, by `train.seed`; products that share a photo stay together.

        Raises:
            DataError: a photo is listed inside and outside of the set.
            UsageError: no photo is chosen, or every one.
        """
        tables = TableReader(settings)
        photos = annotations(tables)
        chosen = _where(photos, where) if where else _share(photos, share, settings.train.seed)
        if not chosen or len(chosen) == len(photos):
            choice = where or f"a share of {share}"
            raise UsageError(
                f"evaluation set {name}: {choice} takes {len(chosen)} of {len(photos)} photos; choose others"
            )
        earlier = [one for one in self.names() if one.partition("@")[0] == name]
        version = EvaluationSet(
            name=name,
            version=f"{len(earlier) + 1:04}",
            created=datetime.datetime.now(datetime.UTC),
            made_of=where or f"{share:.0%} of the products, seed {settings.train.seed}",
            snapshot=tables.snapshot(LISTINGS) or 0,
            photos=chosen,
        )
        uri = uris.join(self.folder, name, f"{version.version}.json")
        self._files.create(uri, version.model_dump_json(by_alias=True).encode())
        return version

    def _read(self, name: str) -> EvaluationSet:
        uri = uris.join(self.folder, *name.split("@")) + ".json"
        try:
            return EvaluationSet.model_validate_json(self._files.read(uri))
        except ValueError as error:
            raise DataError(f"{uri} is damaged ({error}); freeze a new version of the set") from None


def exclude(photos: Mapping[str, Annotation], evaluation: EvaluationSet) -> dict[str, Annotation]:
    """The photos to train on: those of no product of an evaluation set.

    Raises:
        DataError: a product outside of the set shows one of its photos, so the same bytes would be on both sides.
    """
    products = evaluation.products
    leaks = [key for key, one in photos.items() if key in evaluation.photos and not one.products <= products]
    if leaks:
        raise DataError(
            f"{len(leaks)} photos of evaluation set {evaluation.id} are also shown by products outside of it "
            f"({', '.join(leaks[:_MAX_LISTED])}): a model would be trained on what it is measured on. "
            "Freeze a new version of the set (`likeness models freeze`)"
        )
    return {key: one for key, one in photos.items() if key not in evaluation.photos and not one.products & products}


def _where(photos: Mapping[str, Annotation], where: str) -> dict[str, Annotation]:
    key, equals, value = where.partition("=")
    if not equals:
        raise UsageError(f"--where {where!r} is not attribute=value; write for example --where split=validation")
    others = {other for one in photos.values() for name, other in one.attributes if name == key}
    if value not in others:
        values = ", ".join(sorted(others)[:10]) or "no listing has that attribute"
        raise UsageError(f"--where {where}: no listing has it; {key} is one of: {values}")
    chosen = {image_id: one for image_id, one in photos.items() if (key, value) in one.attributes}
    both = [image_id for image_id, one in chosen.items() if {v for k, v in one.attributes if k == key} != {value}]
    if both:
        raise DataError(
            f"{len(both)} photos are shown by listings with {where} and by others ({', '.join(both[:_MAX_LISTED])}): "
            "the same bytes would be on both sides; correct the catalogue, or take a share of the products"
        )
    return chosen


def _share(photos: Mapping[str, Annotation], share: float, seed: int) -> dict[str, Annotation]:
    names = groups(photos)
    return {key: one for key, one in photos.items() if uniform(names[key], seed) < share}


def groups(photos: Mapping[str, Annotation]) -> dict[str, str]:
    """Names the group of each photo: photos of one product, and products that share a photo, are of one group."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one in photos.values():
        first, *rest = sorted(one.products)
        for other in rest:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {key: root(min(one.products)) for key, one in photos.items()}


def uniform(name: str, seed: int) -> float:
    """A pseudo-random number from 0 to 1, by a name and a seed."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") / 2**64
