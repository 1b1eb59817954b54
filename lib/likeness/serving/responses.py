"""Responses of the query service, as types: what a search returns in Python and over HTTP."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PrivateAttr

from likeness.serving.notebook import html_table

Natural = Annotated[int, Field(ge=0)]
_IMAGE_ID = "788f21a546d5cb6a86ce0875c17fbfd550090a2defc1b2b3daf9eea3761b1309"
_SPACE, _BUILD = "efficientnet_lite0.pool@48a432dd", "20260102T031500-nightly-1f3a9c"

ThumbnailSource = Callable[["ResultItem"], bytes | None]
"""Gives a small JPEG of a result's photo, or None."""


class _Frozen(BaseModel, frozen=True):
    pass


class ResultItem(_Frozen):
    """An image, with a product that shows it."""

    image_id: str = Field(description="SHA-256 of its bytes, hexadecimal", examples=[_IMAGE_ID])
    product_id: str = Field(examples=["0d3cf39f78f1"])
    category: str = Field(examples=["hat"])
    uri: str = Field("", description="where it was read from; over HTTP only for keys that serve.uris names")
    url: str = Field(
        "", description="where a browser finds it; without a host, here", examples=[f"/v1/images/{_IMAGE_ID}"]
    )


class Result(ResultItem):
    """One near image, with all products that show it in a searched category."""

    products: tuple[str, ...] = Field(examples=[["0d3cf39f78f1"]])
    score: float = Field(
        description="the higher, the nearer: the cosine, unless the build says otherwise", examples=[0.83]
    )
    distance: float = Field(
        description="the lower, the nearer: 1 - cosine, unless the build says otherwise", examples=[0.17]
    )
    attributes: dict[str, str] = Field(default={}, description="of the product", examples=[{"colour": "red"}])
    region: str = Field("", description="the part of the photo that matched; empty for the whole photo")
    space: str = Field("", description="the feature space of the score", examples=[_SPACE])
    build: str = Field("", description="the build that holds the image", examples=[_BUILD])


class Category(_Frozen):
    """The category predicted for a query, and the categories searched."""

    predicted: str = Field(examples=["hat"])
    score: float = Field(ge=0, le=1, description="share of the neighbours' votes", examples=[0.9])
    searched: tuple[str, ...] = Field(examples=[["hat", "shirt", "dress"]])


class Coverage(_Frozen):
    """How much of the build was searched."""

    shards: Natural = Field(description="shards of the categories searched", examples=[3])
    answered: Natural = Field(description="shards that answered", examples=[3])
    vectors: Natural = Field(description="vectors of the whole build", examples=[160])
    searched: Natural = Field(description="vectors that the answer was sought among", examples=[48])
    degraded: tuple[str, ...] = Field(
        description="why it may lack some: who did not answer, what was not looked at", examples=[[]]
    )


class Answer(_Frozen):
    """The nearest images to a query; in a notebook it shows as a table."""

    space: str = Field(examples=[_SPACE])
    build: str = Field(examples=[_BUILD])
    category: Category
    coverage: Coverage
    results: tuple[Result, ...] = Field(description="nearest first")
    hints: tuple[str, ...] = Field((), description="why the answer may not be what was meant, and what to change")
    took_ms: dict[str, Annotated[float, Field(ge=0)]] = Field(
        description="milliseconds by stage", examples=[{"encode": 12.5, "search": 1.4, "facts": 0.6}]
    )
    _thumbnails: ThumbnailSource | None = PrivateAttr(None)

    def with_thumbnails(self, source: ThumbnailSource) -> "Answer":
        """The same answer, shown in a notebook with thumbnails that `source` gives."""
        self._thumbnails = source
        return self

    def _repr_html_(self) -> str:
        header = ("photo", "score", "product", "category", "attributes")
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

    space: str = Field(examples=[_SPACE])
    build: str = Field(examples=[_BUILD])
    images: Natural = Field(examples=[160])
    products: Natural = Field(examples=[160])
    categories: dict[str, Natural] = Field(description="images by category", examples=[{"hat": 16, "shoes": 16}])
    some: tuple[ResultItem, ...] = Field(description="some of its images, to start with")


class Ready(_Frozen):
    """That queries are answered, and by which builds, that of the default space first."""

    status: Literal["ready"]
    build: str = Field(examples=[f"{_SPACE}/{_BUILD}"])
    builds: Sequence[str] = Field(examples=[[f"{_SPACE}/{_BUILD}"]])
    checked_s: float = Field(ge=0, description="seconds since it was read which builds are published", examples=[0.4])


class Problem(_Frozen, extra="allow"):
    """An error (RFC 9457): `code` is for programs, `detail` for people."""

    type: str = Field(examples=["urn:likeness:unknown"])
    title: str = Field(examples=["no such product, image, build or path"])
    status: int = Field(ge=400, le=599, examples=[404])
    detail: str = Field(examples=["product 'x' is not in the keyed store"])
    code: str = Field(examples=["unknown"])
    request_id: str = Field("", description="what the service's log calls the request", examples=["5f0c1d2e3a4b"])
