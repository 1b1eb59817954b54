"""The manifest of a build: its shards, what it was built from, and the recall it reached. Models only; no storage."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from likeness.storage.artifact import File, FrozenModel

_Params = Annotated[Mapping[str, int], Field(validation_alias=AliasChoices("index_params", "knob"))]
"""Search parameters of an index. The second name of a field is its name in format 2."""


class Recall(FrozenModel):
    """The recall that the audit measured: the share of the exact `k` nearest found, over held-out queries."""

    k: int
    queries: int
    value: float


class OperatingPoint(FrozenModel):
    """Recall and time of one kind with one choice of search parameters; `ms` is for one query of a batch."""

    kind: str
    index_params: _Params
    recall: float
    ms: float


class Shard(FrozenModel):
    """One FAISS index: the images of a category, of a part of a big one, of several tiny ones, or a night's `delta`.

    `vectors` are its rows: `regions` of them are parts of a photo, `tombstoned` of them are deleted. `categories`
    counts the live rows by category. `index_params` are its search parameters. `filtered` is the recall where a
    filter lets only a share of the rows pass, by that share. `curve` holds the trials that chose kind and parameters.
    """

    number: int
    part: int
    parts: int
    delta: bool
    categories: Mapping[str, int]
    vectors: int
    regions: int = 0
    tombstoned: int = Field(validation_alias=AliasChoices("tombstoned", "removed"))
    recall: Recall
    filtered: Mapping[str, float]
    index: File
    ids: File
    kind: str
    index_params: _Params
    curve: Sequence[OperatingPoint]

    @property
    def build(self) -> str:
        """The name of the build that wrote it."""
        return self.ids.name.partition("/")[0]

    @property
    def live(self) -> int:
        """The number of rows that a search may find."""
        return self.vectors - self.tombstoned

    @property
    def lowest(self) -> float:
        """The lowest recall measured, with and without filters."""
        return min([self.recall.value, *self.filtered.values()])

    @property
    def description(self) -> str:
        """The shard's content in a few words, for reports."""
        if self.delta:
            return f"new since the last whole build, {self.build[:8]}"
        names = sorted(self.categories, key=lambda name: (-self.categories[name], name))
        return names[0] if len(names) == 1 else f"{len(names)} small categories" if names else "nothing any more"


class Manifest(FrozenModel):
    """The description of a build: its shards, the snapshots and settings it was built from, and its counts.

    `images` and `products` are distinct ones; `vectors` are the live rows of all shards.
    """

    format: Annotated[Literal[3], BeforeValidator(lambda number: 3 if number == 2 else number)] = 3
    build: str
    run_id: str
    created: str
    space: str
    dim: int
    kind: str
    metric: Literal["cosine", "l2", "ip"]
    snapshots: Mapping[str, int]
    index_settings: Mapping[str, int | float | str]
    images: int
    products: int
    vectors: int
    shards: Sequence[Shard]
    tombstones: File | None = Field(None, validation_alias=AliasChoices("tombstones", "removed"))

    @property
    def files(self) -> list[File]:
        """Every file that its searches read; some are an earlier build's."""
        files = [file for shard in self.shards for file in (shard.index, shard.ids)]
        return [*files, self.tombstones] if self.tombstones else files

    @property
    def path(self) -> str:
        """`space/build`, the build's name among all builds of a root."""
        return f"{self.space}/{self.build}"

    @property
    def regions(self) -> int:
        """The number of rows that are parts of a photo."""
        return sum(shard.regions for shard in self.shards)

    def categories(self) -> dict[str, int]:
        """Live rows by category, in the order of the names."""
        sizes = Counter[str]()
        for shard in self.shards:
            sizes.update(shard.categories)
        return dict(sorted(sizes.items()))


def build_name(run_id: str) -> str:
    """The folder name of a run's build; names sort by age."""
    return re.sub(r"[^0-9A-Za-z-]", "-", run_id)
