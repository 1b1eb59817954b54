"""Requests of the HTTP API, as types.   [fastapi]"""

from typing import Annotated

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from likeness.images.query_views import QueryView
from likeness.serving.query_terms import Combine
from likeness.serving.search_params import SearchParams

_FLOAT32 = 3.4028234663852886e38
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-_FLOAT32, le=_FLOAT32)]
_COMBINE = "of several of one thing: the best of each, or their mean"


def _true_or_false(value: object) -> object:
    """Passes on what the contract calls a boolean; else `distinct=0` would be one, and so would `distinct=off`."""
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in ("true", "false")):
        return value
    raise ValueError("Input should be true or false")


class SearchQuery(BaseModel):
    """Parameters of any search."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(10, ge=1, description="results wanted")
    category: str = Field("auto", description="auto (the best predicted), all, or a name")
    where: list[str] = Field(
        [], description="name=value: only products with such an attribute; one name several times: any of the values"
    )
    offset: int = Field(0, ge=0, description="results to pass over: those of pages before")
    min_score: Finite | None = Field(None, description="results below it are left out")
    distinct: Annotated[bool, BeforeValidator(_true_or_false)] = Field(False, description="one result a product")
    min_coverage: float = Field(0, ge=0, le=1, description="share of the shards asked that has to answer")
    near_duplicate: float | None = Field(
        None, ge=0, le=1, description="results whose cosine to a better one is so much or more are left out"
    )
    build: str = Field("", description="a build by name; the one in service if empty")
    space: str = Field("", description="a feature space in service; the default one if empty")

    def params(self) -> SearchParams:
        """The search parameters; a limit that is not set is infinite."""
        return SearchParams(**self.model_dump(include=set(SearchQuery.model_fields), exclude_none=True))


class PhotoQuery(SearchQuery):
    """A search by a photo, or by several of one thing."""

    image: list[UploadFile] = Field(description="one photo or several")
    box: str = Field("", description="left,top,right,bottom of the part that is meant, between 0 and 1")
    combine: Combine = Field("best", description=_COMBINE)
    looks: list[QueryView] = Field(
        [], description="further looks of a photo, the nearest of which counts; each takes time"
    )


class BatchQuery(SearchQuery):
    """Searches by vectors of a feature space, as the layer gives them: one for each vector."""

    space: str = Field(description="the feature space of the vectors", examples=["efficientnet_lite0.pool@48a432dd"])
    vectors: list[list[Finite]] = Field(
        min_length=1, max_length=64, description="vectors of the space, each as long as it has dimensions"
    )


class VectorQuery(BatchQuery):
    """A search by vectors of a feature space, as the layer gives them."""

    combine: Combine = Field("best", description=_COMBINE)
