"""Client of the query service: photos, products or vectors in, typed answers out; see docs/serving.md.   [httpx2]"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
from pydantic import ValidationError

from likeness.core.errors import ServiceError, SpaceMismatch, UsageError
from likeness.images.image import WHOLE
from likeness.serving.query_terms import ProductTerm, Term, VectorTerm
from likeness.serving.responses import Answer, Answers, Catalogue, Problem, ResultItem
from likeness.serving.search_api import THUMBNAIL_SIDE, SearchApi
from likeness.serving.search_params import SearchParams


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
    **dict.fromkeys(("bad_request", "invalid", "bad_image", "unknown"), RefusedError),
    "space_mismatch": SpaceProblemError,
}


class Client(SearchApi):
    """Client of one query service, with the search methods of `Library`; may be shared by threads.

    Its errors are `ProblemError` where the service answers with one; a `RefusedError` is a `UsageError` too.
    """

    def __init__(self, address: str, key: str = "", timeout_s: float = 30) -> None:
        """Names the service; connects on the first request.

        Args:
            address: such as https://search.shop.example.
            key: an API key, where the service needs one.
            timeout_s: seconds that an answer may take.
        """
        headers = {"X-API-Key": key} if key else {}
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=timeout_s)

    def catalogue(self, some: int = 12, space: str = "") -> Catalogue:
        """What the build in service of a space holds, and some of its images."""
        values = {"some": some, "space": space}
        return Catalogue.model_validate_json(self._request("GET", "/v1/catalogue", params=values))

    def thumbnail(self, image_id: str, side: int = 320) -> bytes:
        """A JPEG of an image that is in service, at most `side` pixels wide and high."""
        return self._request("GET", f"/v1/images/{quote(image_id, safe='')}", params={"side": side})

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def _answer(self, term: Term, params: SearchParams) -> Answer:
        values = params.changed()
        if isinstance(term, ProductTerm):
            path = f"/v1/products/{quote(term.product_id, safe='')}/similar"
            answer = self._request("GET", path, params=values)
        elif isinstance(term, VectorTerm):
            body = {**values, "vectors": term.vectors.tolist(), "space": term.space, "combine": term.combine}
            answer = self._request("POST", "/v1/search/vectors", json=body)
        else:
            form = {**values, "looks": list(term.looks), "combine": term.combine}
            form |= {"box": ",".join(map(str, term.box))} if term.box != WHOLE else {}
            files = [("image", ("photo", photo)) for photo in term.photos]
            answer = self._request("POST", "/v1/search", data=form, files=files)
        return Answer.model_validate_json(answer)

    def _batch(self, vectors: np.ndarray, params: SearchParams) -> Sequence[Answer]:
        body = {**params.changed(), "vectors": vectors.tolist()}
        return Answers.model_validate_json(self._request("POST", "/v1/search/batch", json=body)).answers

    def _thumbnail(self, item: ResultItem) -> bytes | None:
        try:
            return self.thumbnail(item.image_id, THUMBNAIL_SIDE)
        except (ServiceError, RuntimeError):  # httpx2 raises RuntimeError once the client is closed
            return None

    def _request(self, method: str, path: str, **content: Any) -> bytes:
        try:
            response = self._http.request(method, path, **content)
        except httpx2.HTTPError as error:
            raise ServiceError(f"{self._http.base_url}: {error or type(error).__name__}") from None
        if response.is_success:
            return response.content
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            raise ServiceError(f"{self._http.base_url}: status {response.status_code} without a reason") from None
        raise _ERRORS.get(problem.code, ProblemError)(problem)
