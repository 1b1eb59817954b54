"""Records of shards, for tests of what reads manifests."""

from likeness.index.manifest import Recall, Shard
from likeness.storage.artifact import File

NOWHERE = File(name="x", bytes=2_000_000, sha256="")


def shard_record(
    number: int, category: str, vectors: int, files: tuple[File, File] = (NOWHERE, NOWHERE), recall: float = 1.0
) -> Shard:
    """A shard of one category that nothing was taken out of: its index and id map are these files."""
    return Shard(
        number=number,
        part=0,
        parts=1,
        delta=False,
        categories={category: vectors},
        vectors=vectors,
        tombstoned=0,
        recall=Recall(k=10, queries=64, value=recall),
        filtered={},
        index=files[0],
        ids=files[1],
        kind="flat",
        index_params={},
        curve=[],
    )
