"""Search parameters: what a caller may set of any search, whatever the query is."""

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
        UsageError: `k`, `offset` or `where` is out of range or of another type.
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
            if not isinstance(number, int) or number < least:
                raise UsageError(f"{name} is {number!r}; give a whole number of {least} or more")
        object.__setattr__(self, "where", (self.where,) if isinstance(self.where, str) else tuple(self.where))
        if not all(isinstance(condition, str) for condition in self.where):
            raise UsageError(f"where is {self.where!r}; give a list of name=value, such as ['color=red']")

    def changed(self) -> SearchOptions:
        """The parameters that are not the default: HTTP cannot carry an infinite limit."""
        options = {name: value for name, value in vars(self).items() if value != getattr(SearchParams, name)}
        return cast(SearchOptions, options)
