"""What the query service answers, as types: for its contract, and for who asks it."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class ResultItem(_Frozen):
    """An image, with the product that shows it."""

    image_id: str = Field(description="SHA-256 of its bytes, hexadecimal")
    product_id: str
    category: str
    uri: str = Field(description="where it was read from")
    url: str = Field(description="where a browser finds it; without a host, here")


class Result(ResultItem):
    """A near image, with all products that show it in a category that was searched."""

    products: Sequence[str]
    score: float = Field(description="the higher, the nearer: the cosine, unless the build says otherwise")
    distance: float = Field(description="the lower, the nearer: 1 - cosine, unless the build says otherwise")
    attributes: Mapping[str, str] = Field(description="of the product")


class Category(_Frozen):
    """Which category the query seems to be of, and which were searched."""

    predicted: str
    score: float = Field(description="share of the neighbours' votes")
    searched: Sequence[str]


class Coverage(_Frozen):
    """How much of the build was searched."""

    shards: int = Field(description="shards of the categories searched")
    answered: int
    vectors: int = Field(description="vectors of the whole build")
    searched: int = Field(description="vectors that the answer was sought among")
    degraded: Sequence[str] = Field(description="why it may lack some: who did not answer, what was not looked at")


class Answer(_Frozen):
    """The nearest images to a query."""

    space: str
    build: str
    category: Category
    coverage: Coverage
    results: Sequence[Result] = Field(description="nearest first")
    took_ms: Mapping[str, float] = Field(description="milliseconds by stage")


class Answers(_Frozen):
    """Answers to several queries."""

    answers: Sequence[Answer] = Field(description="in the order of the queries")


class Catalogue(_Frozen):
    """What a build holds."""

    space: str
    build: str
    images: int
    products: int
    categories: Mapping[str, int] = Field(description="images by category")
    some: Sequence[ResultItem]


class Problem(_Frozen):
    """An error (RFC 9457): `code` is for programs, `detail` for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str = Field("", description="what the service's log calls the request")
