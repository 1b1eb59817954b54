"""A client of the query service: photos, products or vectors in, typed answers out; see docs/serving.md.   [httpx2]"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import quote

import httpx2
from pydantic import ValidationError

from likeness.core.errors import ServiceError, UsageError
from likeness.serving.responses import Answer, Answers, Catalogue, Problem


class ProblemError(ServiceError):
    """The service answered with an error; `problem` has its code, status and request_id."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.detail} ({problem.code}, request {problem.request_id or 'without a name'})")
        self.problem = problem


class Wanted(TypedDict, total=False):
    """What may be asked of an answer; the rest is as the service has it by default.

    k: results wanted, 10. category: `auto` for the best predicted ones, `all`, or a name. offset: results to pass
    over, those of pages before. min_score: results below it are left out. distinct: one result a product.
    min_coverage: share of the shards asked that has to answer. near_duplicate: results whose cosine to a better one
    is so much or more are left out. where: `name=value`, only products with such an attribute; one name several times
    for any of its values. build: a build by its name; the one in service if empty.
    """

    k: int
    category: str
    offset: int
    min_score: float
    distinct: bool
    min_coverage: float
    near_duplicate: float
    where: Sequence[str]
    build: str


class Client:
    """Asks one query service; may be shared by threads."""

    def __init__(self, address: str, key: str = "", timeout_s: float = 30) -> None:
        """Names the service.

        Args:
            address: as https://search.shop.example.
            key: an API key, where one is wanted.
            timeout_s: seconds that an answer may take.
        """
        headers = {"X-API-Key": key} if key else {}
        self._http = httpx2.Client(base_url=address, headers=headers, timeout=timeout_s)

    def search(
        self,
        *photos: bytes | str | Path,
        box: tuple[float, float, float, float] | None = None,
        combine: Literal["best", "mean"] = "best",
        looks: Sequence[Literal["turned", "whole", "sharp"]] = (),
        **wanted: Unpack[Wanted],
    ) -> Answer:
        """What looks like a photo, or like several of one thing.

        Args:
            photos: files, or their bytes.
            box: the part of the photo that is meant: left, top, right, bottom, between 0 and 1.
            combine: of several photos the best of each, or their mean.
            looks: further looks of each photo: `turned`, `whole`, `sharp`; an image is as near as to the nearest.
            wanted: as in `Wanted`.

        Raises:
            UsageError: no photo is given, or a file cannot be read.
            ProblemError: the service says why not.
            ServiceError: the service does not answer.
        """
        if not photos:
            raise UsageError("no photo is given")
        values = {**wanted, "combine": combine, "looks": list(looks)} | (
            {"box": ",".join(map(str, box))} if box else {}
        )
        files = [("image", ("photo", _bytes(photo))) for photo in photos]
        return Answer.model_validate(self._asked("POST", "/v1/search", data=values, files=files))

    def similar(self, product_id: str, **wanted: Unpack[Wanted]) -> Answer:
        """What looks like a product, itself left out; errors as of `search`."""
        path = f"/v1/products/{_quoted(product_id)}/similar"
        return Answer.model_validate(self._asked("GET", path, params=wanted))

    def vectors(
        self,
        space: str,
        vectors: Sequence[Sequence[float]],
        combine: Literal["best", "mean"] = "best",
        **wanted: Unpack[Wanted],
    ) -> Answer:
        """What is near vectors of one thing, as the layer of the space gives them; errors as of `search`."""
        rows = [list(map(float, row)) for row in vectors]
        asked = {**wanted, "space": space, "vectors": rows, "combine": combine}
        return Answer.model_validate(self._asked("POST", "/v1/search/vectors", json=asked))

    def batch(self, space: str, vectors: Sequence[Sequence[float]], **wanted: Unpack[Wanted]) -> Sequence[Answer]:
        """What is near each of some vectors, as the layer of the space gives them; errors as of `search`."""
        asked = {**wanted, "space": space, "vectors": [list(map(float, row)) for row in vectors]}
        return Answers.model_validate(self._asked("POST", "/v1/search/batch", json=asked)).answers

    def catalogue(self, some: int = 12) -> Catalogue:
        """What the build in service holds, and some of its images."""
        return Catalogue.model_validate(self._asked("GET", "/v1/catalogue", params={"some": some}))

    def thumbnail(self, image_id: str, side: int = 320) -> bytes:
        """A JPEG of an image that is in service, at most `side` pixels wide and high."""
        return self._response("GET", f"/v1/images/{_quoted(image_id)}", params={"side": side}).content

    def close(self) -> None:
        """Ends its connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asked(self, method: str, path: str, **more: Any) -> Any:
        return self._response(method, path, **more).json()

    def _response(self, method: str, path: str, **more: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **more)
        except httpx2.HTTPError as error:
            raise ServiceError(f"{self._http.base_url}: {error or type(error).__name__}") from None
        if response.is_success:
            return response
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            raise ServiceError(f"{self._http.base_url}: status {response.status_code} without a reason") from None
        raise ProblemError(problem)


def _bytes(photo: bytes | str | Path) -> bytes:
    if isinstance(photo, bytes):
        return photo
    try:
        return Path(photo).read_bytes()
    except OSError as error:
        raise UsageError(f"photo {photo}: {error.strerror}") from None


def _quoted(name: str) -> str:
    return quote(name, safe="")
