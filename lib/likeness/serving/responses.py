"""Responses of the query service, as types: what a search returns in Python and over HTTP."""

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, Field, PrivateAttr

from likeness.serving.notebook import html_table

ThumbnailSource = Callable[["ResultItem"], bytes | None]
"""Gives a small JPEG of a result's photo, or None."""


class _Frozen(BaseModel, frozen=True):
    pass


class ResultItem(_Frozen):
    """An image, with a product that shows it."""

    image_id: str = Field(description="SHA-256 of its bytes, hexadecimal")
    product_id: str
    category: str
    uri: str = Field(description="where it was read from")
    url: str = Field("", description="where a browser finds it; without a host, here")


class Result(ResultItem):
    """One near image, with all products that show it in a searched category."""

    products: tuple[str, ...]
    score: float = Field(description="the higher, the nearer: the cosine, unless the build says otherwise")
    distance: float = Field(description="the lower, the nearer: 1 - cosine, unless the build says otherwise")
    attributes: dict[str, str] = Field(default={}, description="of the product")
    region: str = Field("", description="the part of the photo that matched; empty for the whole photo")
    space: str = Field("", description="the feature space of the score")
    build: str = Field("", description="the build that holds the image")


class Category(_Frozen):
    """The category predicted for a query, and the categories searched."""

    predicted: str
    score: float = Field(description="share of the neighbours' votes")
    searched: tuple[str, ...]


class Coverage(_Frozen):
    """How much of the build was searched."""

    shards: int = Field(description="shards of the categories searched")
    answered: int
    vectors: int = Field(description="vectors of the whole build")
    searched: int = Field(description="vectors that the answer was sought among")
    degraded: tuple[str, ...] = Field(description="why it may lack some: who did not answer, what was not looked at")


class Answer(_Frozen):
    """The nearest images to a query; in a notebook it shows as a table."""

    space: str
    build: str
    category: Category
    coverage: Coverage
    results: tuple[Result, ...] = Field(description="nearest first")
    hints: tuple[str, ...] = Field((), description="why the answer may not be what was meant, and what to change")
    took_ms: dict[str, float] = Field(description="milliseconds by stage")
    _thumbnails: ThumbnailSource | None = PrivateAttr(None)

    def with_thumbnails(self, source: ThumbnailSource) -> "Answer":
        """The same answer, shown in a notebook with thumbnails that `source` gives."""
        self._thumbnails = source
        return self

    def _repr_html_(self) -> str:
        header = ("", "score", "product", "category", "attributes")
        rows = [
            (f"{one.score:.4f}", one.product_id, one.category, ", ".join(f"{k}={v}" for k, v in one.attributes.items()))
            for one in self.results
        ]
        photos = [self._thumbnails(one) if self._thumbnails else None for one in self.results]
        caption = f"{self.space}, build {self.build}: searched {', '.join(self.category.searched)}"
        caption = "; ".join([caption, *self.coverage.degraded, *self.hints])
        return html_table(caption, header, rows, photos)


class Answers(_Frozen):
    """Answers to several queries."""

    answers: tuple[Answer, ...] = Field(description="in the order of the queries")


class Catalogue(_Frozen):
    """The contents of a build in service."""

    space: str
    build: str
    images: int
    products: int
    categories: dict[str, int] = Field(description="images by category")
    some: tuple[ResultItem, ...]


class Ready(_Frozen):
    """That queries are answered, and by which builds, that of the default space first."""

    status: Literal["ready"]
    build: str
    builds: Sequence[str]
    checked_s: float = Field(description="seconds since it was read which builds are published")


class Problem(_Frozen, extra="allow"):
    """An error (RFC 9457): `code` is for programs, `detail` for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str = Field("", description="what the service's log calls the request")
