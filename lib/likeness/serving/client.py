"""Client of the query service: photos, products or vectors in, typed answers out; see docs/serving.md.   [httpx2]"""

import math
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack
from urllib.parse import quote

import httpx2
import numpy as np
from pydantic import ValidationError

from likeness.core.errors import ServiceError, SpaceMismatch, UsageError
from likeness.images.image import WHOLE
from likeness.serving.query_terms import Photo, VectorTerm, query_vectors, search_term
from likeness.serving.responses import Answer, Answers, Catalogue, Problem, ResultItem
from likeness.serving.search_params import SearchOptions, SearchParams

THUMBNAIL_SIDE = 96


class ProblemError(ServiceError):
    """The service answered with an error; `problem` has its code, status and request_id."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.detail} ({problem.code}, request {problem.request_id or 'without a name'})")
        self.problem = problem


class RefusedError(ProblemError, UsageError):
    """The service refused the request: a parameter, a photo, or a name that it does not know."""


class SpaceProblemError(ProblemError, SpaceMismatch):
    """The vectors are of another space than the build."""


_ERRORS = {
    "bad_request": RefusedError,
    "invalid": RefusedError,
    "bad_image": RefusedError,
    "unknown": RefusedError,
    "space_mismatch": SpaceProblemError,
}


class Client:
    """Client of one query service, with the search methods of `Library`; may be shared by threads."""

    def __init__(self, address: str, key: str = "", timeout_s: float = 30) -> None:
        """Names the service; connects on the first request.

        Args:
            address: such as https://search.shop.example.
            key: an API key, where the service needs one.
            timeout_s: seconds that an answer may take.
        """
        headers = {"X-API-Key": key} if key else {}
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=timeout_s)

    def search(
        self,
        *photos: Photo,
        box: Sequence[float] | None = None,
        combine: str = "best",
        looks: Collection[str] = (),
        **options: Unpack[SearchOptions],
    ) -> Answer:
        """Finds the products that look like a photo, or like several photos of one thing; see `Library.search`.

        Raises:
            UsageError: an argument cannot be used; a `RefusedError` where the service says so.
            ProblemError: the service answers with an error.
            ServiceError: the service does not answer.
        """
        term = search_term(photos, SearchParams(**options).space, box, combine, looks)
        if isinstance(term, VectorTerm):
            body = {**_finite(options), "vectors": term.vectors.tolist(), "combine": combine}
            return self._answer("POST", "/v1/search/vectors", json=body)
        values = {**_finite(options), "combine": combine, "looks": list(looks)}
        if term.box != WHOLE:
            values["box"] = ",".join(map(str, term.box))
        files = [("image", ("photo", photo)) for photo in term.photos]
        return self._answer("POST", "/v1/search", data=values, files=files)

    def similar(self, product_id: str, **options: Unpack[SearchOptions]) -> Answer:
        """Finds the products that look like a product, itself left out; see `Library.similar`."""
        SearchParams(**options)
        return self._answer("GET", f"/v1/products/{quote(product_id, safe='')}/similar", params=_finite(options))

    def batch(self, vectors: np.ndarray, **options: Unpack[SearchOptions]) -> Sequence[Answer]:
        """Answers each of some vectors, (q, dim), by itself; `space` must be given. Errors as of `search`."""
        rows = query_vectors(vectors, SearchParams(**options).space)
        body = {**_finite(options), "vectors": rows.tolist()}
        answers = Answers.model_validate_json(self._request("POST", "/v1/search/batch", json=body).content).answers
        return [self._with_photos(answer) for answer in answers]

    def catalogue(self, some: int = 12, space: str = "") -> Catalogue:
        """What the build in service of a space holds, and some of its images."""
        values = {"some": some, "space": space}
        return Catalogue.model_validate_json(self._request("GET", "/v1/catalogue", params=values).content)

    def thumbnail(self, image_id: str, side: int = 320) -> bytes:
        """A JPEG of an image that is in service, at most `side` pixels wide and high."""
        return self._request("GET", f"/v1/images/{quote(image_id, safe='')}", params={"side": side}).content

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, method: str, path: str, **content: Any) -> Answer:
        return self._with_photos(Answer.model_validate_json(self._request(method, path, **content).content))

    def _with_photos(self, answer: Answer) -> Answer:
        return answer.with_thumbnails(self._thumbnail)

    def _thumbnail(self, item: ResultItem) -> bytes | None:
        try:
            return self.thumbnail(item.image_id, THUMBNAIL_SIDE)
        except (ServiceError, RuntimeError):  # httpx2 raises RuntimeError once the client is closed
            return None

    def _request(self, method: str, path: str, **content: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **content)
        except httpx2.HTTPError as error:
            raise ServiceError(f"{self._http.base_url}: {error or type(error).__name__}") from None
        if response.is_success:
            return response
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            raise ServiceError(f"{self._http.base_url}: status {response.status_code} without a reason") from None
        raise _ERRORS.get(problem.code, ProblemError)(problem)


def _finite(options: SearchOptions) -> Mapping[str, Any]:
    """The options that HTTP can carry: an infinite limit is one that is not set."""
    return {name: value for name, value in options.items() if not (isinstance(value, float) and math.isinf(value))}
