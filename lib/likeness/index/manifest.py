"""The manifest: what a build holds, what it was made from and the recall it reached. Models only; no storage."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from likeness.storage.artifact import File, Frozen


class Recall(Frozen):
    """What the audit measured: the share of the exact `k` nearest found, over held-out queries."""

    k: int
    queries: int
    value: float


class OperatingPoint(Frozen):
    """What one kind with one knob reached when the index of a shard was chosen; `ms` is for one query of a batch."""

    kind: str
    knob: Mapping[str, int]
    recall: float
    ms: float


class Shard(Frozen):
    """One FAISS index: the images of a category, of a part of a big one, of several tiny ones, or a night's `delta`.

    `vectors` are its rows, of which `removed` are dead; `categories` counts the living by category. `knob` is what its
    searches turn. `filtered` is the recall where a filter lets only a share of the rows pass, by that share.
    """

    number: int
    part: int
    parts: int
    delta: bool
    categories: Mapping[str, int]
    vectors: int
    removed: int
    recall: Recall
    filtered: Mapping[str, float]
    index: File
    ids: File
    kind: str
    knob: Mapping[str, int]
    curve: Sequence[OperatingPoint]

    @property
    def living(self) -> int:
        """Rows that a search may find."""
        return self.vectors - self.removed

    @property
    def lowest(self) -> float:
        """The lowest recall measured, with and without filters."""
        return min(self.recall.value, *self.filtered.values()) if self.filtered else self.recall.value

    @property
    def told(self) -> str:
        """What it holds, for people."""
        if self.delta:
            return f"new since the last whole build, {self.ids.name.partition('/')[0][:8]}"
        names = sorted(self.categories, key=lambda name: (-self.categories[name], name))
        return names[0] if len(names) == 1 else f"{len(names)} small categories" if names else "nothing any more"


class Manifest(Frozen):
    """What a build holds, what it was made from, and the recall it reached."""

    format: Literal[2] = 2
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
    removed: File | None = None

    @property
    def files(self) -> list[File]:
        """Every file that its searches read; some are an earlier build's."""
        found = [file for shard in self.shards for file in (shard.index, shard.ids)]
        return [*found, self.removed] if self.removed else found

    @property
    def path(self) -> str:
        """`space/build`, as CURRENT names it."""
        return f"{self.space}/{self.build}"

    def categories(self) -> dict[str, int]:
        """Images by category, in the order of the names."""
        sizes: dict[str, int] = {}
        for shard in self.shards:
            for category, images in shard.categories.items():
                sizes[category] = sizes.get(category, 0) + images
        return dict(sorted(sizes.items()))


def build_name(run_id: str) -> str:
    """The folder name of a run's build; names sort by age."""
    return re.sub(r"[^0-9A-Za-z-]", "-", run_id)
