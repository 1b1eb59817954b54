"""Evaluation sets: products that nothing is ever learned from, frozen under a name and a version.

ROOT/evaluation/NAME/0001.json is written once. Models are compared on the same version of the same set only.
"""

import datetime
import hashlib
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from likeness import storage
from likeness.catalog.annotations import Annotation, annotations
from likeness.core import uris
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Settings
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS

_TOLD = 3


class EvaluationSet(BaseModel):
    """Photos by image_id; `made_of` says how they were chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    made: datetime.datetime
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
        return {product for one in self.photos.values() for product in one.products}


class EvaluationSets:
    """The evaluation sets of one root."""

    def __init__(self, root: str) -> None:
        self.folder = uris.join(uris.canonical(root), "evaluation")
        self._files = storage.files(self.folder)

    def names(self) -> list[str]:
        """All of them, as `NAME@VERSION`, by name and age."""
        found = ((name, self._files.names(uris.join(self.folder, name))) for name in self._files.names(self.folder))
        return [f"{name}@{version.removesuffix('.json')}" for name, versions in found for version in versions]

    def find(self, name: str = "") -> EvaluationSet | None:
        """A set by `NAME` (its newest version) or `NAME@VERSION`; empty: the newest of all, None if there is none.

        Raises:
            UsageError: there is no such set.
            DataError: its file is damaged.
        """
        known = self.names()
        if not name:
            newest = [self._read(one) for one in {one.partition("@")[0]: one for one in known}.values()]
            return max(newest, key=lambda one: one.made, default=None)
        mine = [one for one in known if name in (one, one.partition("@")[0])]
        if not mine:
            told = ", ".join(known) or "none"
            raise UsageError(f"evaluation set {name!r} is not in {self.folder}; there are: {told}")
        return self._read(mine[-1])

    def freeze(self, settings: Settings, name: str, where: str, share: float) -> EvaluationSet:
        """Makes the next version of a set.

        Args:
            settings: of the root.
            name: of the set.
            where: `attribute=value` of the listings that are taken; empty for a random share.
            share: of the products that are taken, by `train.seed`; products that share a photo stay together.

        Raises:
            DataError: a photo is shown by listings inside and outside.
            UsageError: nothing is chosen, or all.
        """
        warehouse = TableReader(settings)
        photos = annotations(warehouse)
        chosen = _where(photos, where) if where else _share(photos, share, settings.train.seed)
        if not chosen or len(chosen) == len(photos):
            told = where or f"a share of {share}"
            raise UsageError(
                f"evaluation set {name}: {told} takes {len(chosen)} of {len(photos)} photos; choose others"
            )
        mine = [one for one in self.names() if one.partition("@")[0] == name]
        made = EvaluationSet(
            name=name,
            version=f"{len(mine) + 1:04}",
            made=datetime.datetime.now(datetime.UTC),
            made_of=where or f"{share:.0%} of the products, seed {settings.train.seed}",
            snapshot=warehouse.snapshot(LISTINGS) or 0,
            photos=chosen,
        )
        uri = uris.join(self.folder, name, f"{made.version}.json")
        self._files.create(uri, made.model_dump_json().encode())
        return made

    def _read(self, name: str) -> EvaluationSet:
        uri = uris.join(self.folder, *name.split("@")) + ".json"
        try:
            return EvaluationSet.model_validate_json(self._files.read(uri))
        except ValueError as error:
            raise DataError(f"{uri} is damaged ({error}); freeze a new version of the set") from None


def apart(photos: Mapping[str, Annotation], held: EvaluationSet) -> dict[str, Annotation]:
    """The photos that may be learned from.

    Raises:
        DataError: one of the set is shown by a product that is not in it: the same bytes would be on both sides.
    """
    products = held.products
    leaks = [key for key, one in photos.items() if key in held.photos and not one.products <= products]
    if leaks:
        raise DataError(
            f"{len(leaks)} photos of evaluation set {held.id} are also shown by products outside of it "
            f"({', '.join(leaks[:_TOLD])}): what is learned would be what is measured. "
            "Freeze a new version of the set (`likeness models freeze`)"
        )
    return {key: one for key, one in photos.items() if key not in held.photos and not one.products & products}


def _where(photos: Mapping[str, Annotation], where: str) -> dict[str, Annotation]:
    key, equals, value = where.partition("=")
    if not equals:
        raise UsageError(f"--where {where!r} is not attribute=value; write for example --where split=validation")
    others = {other for one in photos.values() for name, other in one.attributes if name == key}
    if value not in others:
        told = ", ".join(sorted(others)[:10]) or "no listing has that attribute"
        raise UsageError(f"--where {where}: no listing has it; {key} is one of: {told}")
    chosen = {image_id: one for image_id, one in photos.items() if (key, value) in one.attributes}
    both = [image_id for image_id, one in chosen.items() if {v for k, v in one.attributes if k == key} != {value}]
    if both:
        raise DataError(
            f"{len(both)} photos are shown by listings with {where} and by others ({', '.join(both[:_TOLD])}): "
            "the same bytes would be on both sides; mend the catalogue, or take a share of the products"
        )
    return chosen


def _share(photos: Mapping[str, Annotation], share: float, seed: int) -> dict[str, Annotation]:
    names = groups(photos)
    return {key: one for key, one in photos.items() if drawn(names[key], seed) < share}


def groups(photos: Mapping[str, Annotation]) -> dict[str, str]:
    """Photos to names of groups: photos of one product, and products that share a photo, are of one group."""
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


def drawn(name: str, seed: int) -> float:
    """A number from 0 to 1 that only the name and the seed decide."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") / 2**64
