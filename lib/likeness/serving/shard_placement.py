"""Which leaves hold which shard."""

import hashlib
from collections.abc import Iterable, Sequence


def place(shards: Iterable[str], leaves: Sequence[str], replicas: int) -> dict[str, list[str]]:
    """For each shard the leaves that hold it, whom to ask first at the front.

    By rendezvous hashing: a leaf more or less moves only the shards that it gets or had.
    """

    def rank(shard: str, leaf: str) -> bytes:
        return hashlib.sha256(f"{shard}\n{leaf}".encode()).digest()

    return {shard: sorted(leaves, key=lambda leaf: rank(shard, leaf))[:replicas] for shard in shards}
