"""Judged queries: texts of a judgements file in; the photos, images and products of a build that they name out.

An image of the catalogue is left out of its own answers, and so is a product.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from likeness.catalog.hidden_products import HiddenProducts
from likeness.evaluation.judgements import Judgement, Problem
from likeness.index.manifest import Manifest
from likeness.serving.responses import Result
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

KINDS = ("photo", "image", "product")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_COLUMNS = ("uri", "image_id", "product_id", "active")


@dataclass(frozen=True)
class Query:
    """A judged query: its kind, and the photo file or the image of the catalogue whose vector is searched with."""

    judged: Judgement
    kind: str
    photo: Path | None = None
    image_id: str = ""

    @property
    def text(self) -> str:
        """The query as written in the file; unique."""
        return self.judged.query

    def ranking(self, results: Sequence[Result]) -> list[str]:
        """The products of a search's results, the nearest first, each once, without the query itself."""
        own_image = self.image_id if self.kind == "image" else ""
        own_product = self.text if self.kind == "product" else ""
        names = (name for result in results if result.image_id != own_image for name in result.products)
        return list(dict.fromkeys(name for name in names if name != own_product))


class Catalogue:
    """The products and images that judgements name, as they are in the table snapshots of a build."""

    def __init__(self, tables: TableReader, manifest: Manifest, judged: Sequence[Judgement]) -> None:
        self._manifest = manifest
        queries = {one.query for one in judged}
        products = queries.union(*(one.relevances for one in judged))
        listings: list[tuple[str, str, str]] = []
        for batch in tables.batches(LISTINGS, _COLUMNS, snapshot=manifest.snapshots[LISTINGS.name]):
            columns = (batch.column(name).to_pylist() for name in _COLUMNS)
            for uri, image_id, product_id, active in zip(*columns, strict=True):
                if active and (product_id in products or image_id in queries):
                    listings.append((uri, image_id, product_id))
        self._indexed = _with_vectors(tables, manifest, {image_id for _, image_id, _ in listings})
        self._images: dict[str, list[str]] = {}
        for _, image_id, product_id in sorted(row for row in listings if row[1] in self._indexed):
            self._images.setdefault(product_id, []).append(image_id)

    def resolve(self, one: Judgement, folder: Path) -> tuple[Query | None, list[Problem]]:
        """Resolves the text of a query: an image by image_id, a product by product_id, else a photo by its path.

        Args:
            one: the query with its judgements.
            folder: where relative paths start.
        """
        if _IMAGE_ID.fullmatch(one.query):
            return self._image(one)
        if one.query in self._images:
            query = Query(one, "product", image_id=self._images[one.query][0])
            return query, _unanswerable(one, one.relevances.keys() & {one.query}, "is the query itself")
        if (folder / one.query).is_file():
            return Query(one, "photo", folder / one.query), []
        message = (
            f"query {one.query!r} is neither a product of build {self._manifest.build} nor a file in {folder}; "
            "name a photo by its path from there, or an image_id or product_id of the catalogue"
        )
        return None, [Problem(one.line, message)]

    def absent(self, judged: Sequence[Judgement], hidden: HiddenProducts) -> dict[str, str]:
        """Judged products that no answer can contain, with the reason."""
        names = sorted({product_id for one in judged for product_id in one.relevances})
        reasons = {name: "hidden" if name in self._images else "not in the build" for name in names}
        return {name: why for name, why in reasons.items() if name not in self._images or not hidden.without([name])}

    def _image(self, one: Judgement) -> tuple[Query | None, list[Problem]]:
        if one.query not in self._indexed:
            message = f"image {one.query} is not in build {self._manifest.build}; `likeness search --json` names some"
            return None, [Problem(one.line, message)]
        lost = [name for name in one.relevances if self._images.get(name) == [one.query]]
        problems = _unanswerable(one, lost, "has no photo but the query, which is left out")
        return Query(one, "image", image_id=one.query), problems


def _unanswerable(one: Judgement, products: Iterable[str], why: str) -> list[Problem]:
    return [Problem(one.lines[name], f"product {name!r} {why}; judge another") for name in products]


def _with_vectors(tables: TableReader, manifest: Manifest, image_ids: set[str]) -> set[str]:
    """The images that have a vector in the build's snapshot."""
    indexed: set[str] = set()
    where, snapshot = f"space = '{manifest.space}'", manifest.snapshots[FEATURES.name]
    for batch in tables.batches(FEATURES, ("image_id",), where, snapshot):
        indexed |= image_ids.intersection(batch.column("image_id").to_pylist())
    return indexed
