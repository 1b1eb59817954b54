"""Search parameters: what a caller may set of any search, whatever the query is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from likeness.core.errors import UsageError


class SearchOptions(TypedDict, total=False):
    """The fields of `SearchParams` as keyword arguments of a search; see there."""

    k: int
    category: str
    offset: int
    min_score: float
    distinct: bool
    min_coverage: float
    near_duplicate: float
    where: Sequence[str]
    build: str
    space: str


@dataclass(frozen=True)
class SearchParams:
    """Parameters of a search.

    Attributes:
        k: number of results.
        category: `auto` searches the best predicted categories, `all` every one; else a category's name.
        offset: results to skip: those of the pages before.
        min_score: leaves out results of a lower score.
        distinct: one result a product.
        min_coverage: share of the shards to search that must answer, 0 to 1.
        near_duplicate: leaves out results whose cosine to a better one is this high or higher.
        where: `name=value` conditions on product attributes; a name given twice accepts either value.
        build: a build by its name; empty for the one in service.
        space: a feature space with a build in service; empty for the default space.

    Raises:
        UsageError: a parameter is out of range or of another type.
    """

    k: int = 10
    category: str = "auto"
    offset: int = 0
    min_score: float = float("-inf")
    distinct: bool = False
    min_coverage: float = 0
    near_duplicate: float = float("inf")
    where: Sequence[str] = ()
    build: str = ""
    space: str = ""

    def __post_init__(self) -> None:
        for name, number, least in (("k", self.k, 1), ("offset", self.offset, 0)):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise UsageError(f"{name} is {number!r}; give a whole number of {least} or more")
        for name in ("category", "build", "space"):
            if not isinstance(getattr(self, name), str):
                raise UsageError(f"{name} is {getattr(self, name)!r}; give a name")
        if not isinstance(self.distinct, bool):
            raise UsageError(f"distinct is {self.distinct!r}; give True or False")
        if not _is_number(self.min_score):
            raise UsageError(f"min_score is {self.min_score!r}; give a number")
        if not _is_number(self.min_coverage) or not 0 <= self.min_coverage <= 1:
            raise UsageError(f"min_coverage is {self.min_coverage!r}; give a share between 0 and 1")
        if not _is_number(self.near_duplicate) or not (
            0 <= self.near_duplicate <= 1 or math.isinf(self.near_duplicate)
        ):
            raise UsageError(f"near_duplicate is {self.near_duplicate!r}; give a cosine between 0 and 1")
        object.__setattr__(self, "where", (self.where,) if isinstance(self.where, str) else tuple(self.where))
        if not all(isinstance(condition, str) for condition in self.where):
            raise UsageError(f"where is {self.where!r}; give a list of name=value, such as ['color=red']")

    def changed(self) -> SearchOptions:
        """The parameters that are not the default: HTTP cannot carry an infinite limit."""
        options = {name: value for name, value in vars(self).items() if value != getattr(SearchParams, name)}
        return cast(SearchOptions, options)


def _is_number(value: object) -> bool:
    """Whether a value is a number other than NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
