"""The search engine: terms of any modality in, answers with product facts out, from the builds of one root."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from likeness import storage
from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import ServiceError, SpaceMismatch, UsageError
from likeness.core.settings import Settings
from likeness.index.shard import Hit
from likeness.serving.keyed_reader import KeyedReader
from likeness.serving.loaded_build import BuildSource, LoadedBuild, UnknownSpaceError
from likeness.serving.query_encoder import EncodedQuery, check_direction, query_encoders
from likeness.serving.query_terms import Term, VectorTerm
from likeness.serving.responses import Answer, Catalogue, ResultItem
from likeness.serving.result_filters import AttributeLookup
from likeness.serving.root import Facts, milliseconds
from likeness.serving.search_params import SearchParams
from likeness.serving.thumbnails import Thumbnails
from likeness.storage import KeyedStore
from likeness.storage.table_reader import TableReader

_BATCH_THREADS = 16


@dataclass(frozen=True, eq=False)
class LoadedQuery:
    """An encoded query, the build to search, and the milliseconds that encoding took."""

    encoded: EncodedQuery
    loaded: LoadedBuild
    took_ms: Mapping[str, float]


class SearchEngine:
    """Answers queries with the builds of a source; each answer is of one build."""

    image_route = ""
    """Path of thumbnails by image_id, where a server serves them."""

    def __init__(
        self, settings: Settings, builds: BuildSource, hidden: HiddenProducts, report: Callable[[str], None]
    ) -> None:
        self.settings, self._builds, self._hidden, self._report = settings, builds, hidden, report
        self._keyed = KeyedReader(self._open_keyed, settings.serve.deadline_ms / 1000)
        self._encoders = query_encoders(self._keyed, hidden)
        self.tables = TableReader(settings)
        self.thumbnails = Thumbnails(self.tables, settings.limits)

    def close(self) -> None:
        """Closes the keyed store."""
        self._keyed.close()

    def search(self, term: Term, params: SearchParams) -> Answer:
        """Answers a query.

        Raises:
            UsageError: a parameter or a photo cannot be used, or there is no such product, build or space.
            SpaceMismatch: the vectors are of another space than the build.
            CoverageError: too few shards answered.
            ServiceError: no build is loaded, or a store does not answer.
        """
        return self.answer(self.encode(term, params), params)

    def encode(self, term: Term, params: SearchParams) -> LoadedQuery:
        """The first half of `search`: chooses the build, and turns the term into vectors; raises what that raises."""
        loaded, start = self._loaded_for(term, params), time.perf_counter()
        encoder = self._encoders[type(term)]
        query = encoder.encode(term, loaded)
        return LoadedQuery(query, loaded, {encoder.stage: milliseconds(start)} if encoder.stage else {})

    def answer(self, query: LoadedQuery, params: SearchParams) -> Answer:
        """The second half of `search`: searches the build of an encoded query."""
        answer = self._answer(query.encoded, params, query.loaded)
        return answer.model_copy(update={"took_ms": {**query.took_ms, **answer.took_ms}})

    def batch(self, vectors: np.ndarray, params: SearchParams) -> list[Answer]:
        """Answers each of some vectors, float32 (q, dim) of `params.space`, by itself; all answers are of one build.

        Raises:
            UsageError: a parameter cannot be used, or a vector has no direction.
            SpaceMismatch: the vectors are of another space than the build.
        """
        loaded = self._loaded_for(VectorTerm(vectors, params.space), params)
        check_direction(vectors, loaded.manifest.metric)
        queries = [EncodedQuery(row, params.space) for row in vectors]
        with ThreadPoolExecutor(_BATCH_THREADS) as pool:  # at once, so that the leaf searches them together
            return list(pool.map(lambda query: self._answer(query, params, loaded), queries))

    def catalogue(self, count: int, space: str = "") -> Catalogue:
        """What the build in service of a space holds: images by category, and about `count` images to start with."""
        loaded = self._builds.loaded(space)
        manifest = loaded.manifest
        hits = [hit for hit in loaded.leaf.sample_hits(2 * count) if self._hidden.without(hit.products)][:count]
        return Catalogue(
            space=manifest.space,
            build=manifest.build,
            images=manifest.images,
            products=manifest.products,
            categories=loaded.root.categories,
            some=tuple(self._item(hit) for hit in hits),
        )

    def thumbnail(self, image_id: str, side: int) -> bytes | None:
        """A JPEG of an image that a build in service shows; None if none does, or the photo is gone."""
        self._builds.loaded()
        for loaded in self._builds.in_service():
            hit = loaded.leaf.lookup(image_id)
            if hit and self._hidden.without(hit.products):
                return self.thumbnails.get(image_id, hit.uri, side)
        return None

    def _loaded_for(self, term: Term, params: SearchParams) -> LoadedBuild:
        if not isinstance(term, VectorTerm):
            return self._builds.loaded(params.space, params.build)
        try:  # a build by its name is checked against the space of the vectors later
            return self._builds.loaded("" if params.build else term.space, params.build)
        except UnknownSpaceError as error:
            raise SpaceMismatch(f"the vectors are of no space in service: {error}") from None

    def _answer(self, query: EncodedQuery, params: SearchParams, loaded: LoadedBuild) -> Answer:
        lookup = AttributeLookup(self._keyed, loaded.manifest.space)
        return loaded.root.search(
            query.vectors, query.space, params, query.prediction, query.excluded, lookup, self._describe
        )

    def _describe(self, hits: Sequence[Hit]) -> Facts:
        """Facts for display; an answer without them is better than none."""
        start, attributes, degraded = time.perf_counter(), dict[str, Mapping[str, str]](), list[str]()
        try:
            product_ids = list(dict.fromkeys(hit.products[0] for hit in hits))
            products = self._keyed.products(product_ids, self.settings.serve.facts_ms / 1000)
            attributes = {name: product.attributes for name, product in products.items()}
        except (ServiceError, UsageError) as error:
            self._report(f"facts: {error}")
            degraded = [f"facts: {error.message}"]
        return Facts(attributes, self._url, degraded, {"facts": milliseconds(start)})

    def _item(self, hit: Hit) -> ResultItem:
        return ResultItem(**vars(hit), product_id=hit.products[0], url=self._url(hit))

    def _url(self, hit: Hit) -> str:
        """Where a browser finds the photo: by `serve.photo_url`, else a thumbnail of the server; empty without one."""
        template = self.settings.serve.photo_url
        if not template:
            return self.image_route and self.image_route + hit.image_id
        names = {"image_id": hit.image_id, "product_id": hit.products[0], "category": hit.category}
        return template.format(**{name: quote(value, safe="") for name, value in names.items()}, uri=hit.uri)

    def _open_keyed(self) -> KeyedStore:
        return storage.keyed(storage.keyed_uri(self.settings.keyed.uri, self.settings.root))
