"""What judged queries mean: texts of a file of judgements in; photos, images and products of a build out.

A photo is searched as it is. An image of the catalogue is left out of its own answers, a product likewise.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from likeness.catalog.hidden_products import HiddenProducts
from likeness.evaluation.judgements import Judgement, Problem
from likeness.index.manifest import Manifest
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

KINDS = ("photo", "image", "product")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_SHOWN = ("uri", "image_id", "product_id", "active")


@dataclass(frozen=True)
class Query:
    """A judged query: its kind, and the file of a photo or the image of the catalogue whose vector asks."""

    judged: Judgement
    kind: str
    photo: Path | None = None
    image_id: str = ""

    @property
    def text(self) -> str:
        """As it is written in the file; no two queries have the same."""
        return self.judged.query

    def ranking(self, results: Sequence[Mapping[str, Any]]) -> list[str]:
        """The products of a search's results, the nearest first, each once, without what the query itself is."""
        own_image = self.image_id if self.kind == "image" else ""
        own_product = self.text if self.kind == "product" else ""
        shown = (name for result in results if result["image_id"] != own_image for name in result["products"])
        return list(dict.fromkeys(name for name in shown if name != own_product))


class Catalogue:
    """The products and images that judgements name, as a build holds them: by its snapshots of the tables."""

    def __init__(self, warehouse: TableReader, manifest: Manifest, judged: Sequence[Judgement]) -> None:
        self._manifest = manifest
        queries = {one.query for one in judged}
        products = queries.union(*(one.relevances for one in judged))
        shown: list[tuple[str, str, str]] = []
        for batch in warehouse.batches(LISTINGS, _SHOWN, snapshot=manifest.snapshots[LISTINGS.name]):
            columns = (batch.column(name).to_pylist() for name in _SHOWN)
            for uri, image_id, product_id, active in zip(*columns, strict=True):
                if active and (product_id in products or image_id in queries):
                    shown.append((uri, image_id, product_id))
        self._held = _held(warehouse, manifest, {image_id for _, image_id, _ in shown})
        self._images: dict[str, list[str]] = {}
        for _, image_id, product_id in sorted(row for row in shown if row[1] in self._held):
            self._images.setdefault(product_id, []).append(image_id)

    def meant(self, one: Judgement, folder: Path) -> tuple[Query | None, list[Problem]]:
        """The query that a text names: an image by image_id, a product by product_id, else a photo by its path.

        Args:
            one: the query with its judgements.
            folder: where relative paths start.
        """
        if _IMAGE_ID.fullmatch(one.query):
            return self._image(one)
        if one.query in self._images:
            itself = [name for name in one.relevances if name == one.query]
            wrong = [
                Problem(one.lines[name], f"product {name!r} is the query itself; judge another") for name in itself
            ]
            return Query(one, "product", image_id=self._images[one.query][0]), wrong
        if (folder / one.query).is_file():
            return Query(one, "photo", folder / one.query), []
        told = (
            f"query {one.query!r} is neither a product of build {self._manifest.build} nor a file in {folder}; "
            "name a photo by its path from there, or an image_id or product_id of the catalogue"
        )
        return None, [Problem(one.line, told)]

    def absent(self, judged: Sequence[Judgement], hidden: HiddenProducts) -> dict[str, str]:
        """Judged products that no answer can hold, with the reason."""
        names = sorted({product_id for one in judged for product_id in one.relevances})
        unseen = {name: "hidden" if name in self._images else "not in the build" for name in names}
        return {name: why for name, why in unseen.items() if name not in self._images or not hidden.without([name])}

    def _image(self, one: Judgement) -> tuple[Query | None, list[Problem]]:
        if one.query not in self._held:
            told = f"image {one.query} is not in build {self._manifest.build}; `likeness search --json` names some"
            return None, [Problem(one.line, told)]
        lost = [name for name in one.relevances if self._images.get(name) == [one.query]]
        told = "has no photo but the query, which is left out; judge another"
        return Query(one, "image", image_id=one.query), [
            Problem(one.lines[name], f"product {name!r} {told}") for name in lost
        ]


def _held(warehouse: TableReader, manifest: Manifest, image_ids: set[str]) -> set[str]:
    """Those of the images that have a vector in the build's snapshot."""
    found: set[str] = set()
    where, snapshot = f"space = '{manifest.space}'", manifest.snapshots[FEATURES.name]
    for batch in warehouse.batches(FEATURES, ("image_id",), where, snapshot):
        found |= image_ids.intersection(batch.column("image_id").to_pylist())
    return found
