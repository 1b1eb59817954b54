"""Evaluation of a build by judged queries: a judgements file in; recall@k and nDCG@k of products out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likeness.catalog.hidden_products import HiddenProducts
from likeness.catalog.samples import vector_matrix
from likeness.core.settings import Settings
from likeness.core.statistics import Figure, figures
from likeness.evaluation import judgements
from likeness.evaluation.judged_queries import KINDS, Catalogue, Query
from likeness.evaluation.judgements import Problem
from likeness.images.image import BadImage
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.serving.encoder import Encoder
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES

CATEGORIES = ("all", "auto")


@dataclass(frozen=True)
class Evaluation:
    """The quality of a build by judged queries.

    `queries` counts them by kind, `judged` the pairs of query and product. `absent` are judged products that no answer
    can contain, with the reason; they count as not found. `figures` are by searched category, then `recall` and `ndcg`.
    """

    build: str
    k: int
    queries: Mapping[str, int]
    judged: int
    absent: Mapping[str, str]
    figures: Mapping[str, Mapping[str, Figure]]


class ProductSearch:
    """Search of a build for products, as the service searches it."""

    def __init__(self, builds: Builds, manifest: Manifest, hidden: HiddenProducts) -> None:
        self._space = manifest.space
        self._root = Root(manifest, Leaf(builds, manifest), hidden)

    def ranking(self, query: Query, vector: np.ndarray, category: str, k: int) -> list[str]:
        """The k nearest products, or fewer: those that show the nearest photos, each once."""
        photos = k if query.photo else k + 1
        while True:
            results = self._root.search(vector, self._space, SearchParams(photos, category)).results
            products = query.ranking(results)
            if len(products) >= k or len(results) < photos:
                return products[:k]
            photos *= 2  # several photos of one product


def evaluate(settings: Settings, build: str, path: Path, k: int) -> Evaluation:
    """Searches a build for every judged query, in each of `CATEGORIES`.

    Args:
        settings: of the root.
        build: its name; the one in service if empty.
        path: the judgements.
        k: products that count of each answer.

    Raises:
        UsageError: no such build, or the judgements have bad rows; the message names each.
    """
    builds = Builds.open(settings)
    manifest = builds.find(build)
    judged, problems = judgements.read(path)
    catalogue, hidden = Catalogue(TableReader(settings), manifest, judged), HiddenProducts(settings.root)
    queries: list[Query] = []
    for one in judged:
        query, bad_rows = catalogue.resolve(one, path.parent)
        queries += [query] if query else []
        problems += bad_rows
    vectors, unusable = _vectors(settings, manifest, queries)
    judgements.refuse(path, [*problems, *unusable])
    search = ProductSearch(builds, manifest, hidden)
    by_category = {category: _figures(search, queries, vectors, category, k) for category in CATEGORIES}
    counts = {kind: sum(query.kind == kind for query in queries) for kind in KINDS}
    pairs = sum(len(one.relevances) for one in judged)
    return Evaluation(manifest.path, k, counts, pairs, catalogue.absent(judged, hidden), by_category)


def _figures(
    search: ProductSearch, queries: Sequence[Query], vectors: Mapping[str, np.ndarray], category: str, k: int
) -> dict[str, Figure]:
    rows = []
    for query in queries:
        ranking, relevances = search.ranking(query, vectors[query.text], category, k), query.judged.relevances
        rows.append([judgements.recall(ranking, relevances, k), judgements.ndcg(ranking, relevances, k)])
    return dict(zip(("recall", "ndcg"), figures(np.array(rows)), strict=True))


def _vectors(
    settings: Settings, manifest: Manifest, queries: Sequence[Query]
) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """The vector of each query by its text, float32 (dim,), and the photos that cannot be read."""
    vectors, problems = _stored(settings, manifest, [query for query in queries if not query.photo]), []
    photos = [(query, query.photo) for query in queries if query.photo]
    if photos:
        encoder = Encoder(settings, manifest.space)
        for query, photo in photos:
            try:
                vectors[query.text] = encoder.encode(photo.read_bytes())[0]
            except (BadImage, OSError) as bad:
                message = f"photo {query.text!r} cannot be searched with: {bad}; name another"
                problems.append(Problem(query.judged.line, message))
    return vectors, problems


def _stored(settings: Settings, manifest: Manifest, queries: Sequence[Query]) -> dict[str, np.ndarray]:
    """The vectors of images of the catalogue in the build's snapshot, by query text."""
    if not queries:
        return {}
    keys = sorted({query.image_id for query in queries})
    where, snapshot = f"space = '{manifest.space}'", manifest.snapshots[FEATURES.name]
    files = [uri for uri, _ in TableReader(settings).parts(FEATURES, where, snapshot)]
    rows = dict(zip(keys, vector_matrix(files, manifest.space, keys), strict=True))
    return {query.text: rows[query.image_id] for query in queries}
