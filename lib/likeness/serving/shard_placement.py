"""Shard placement: shards and leaves in, the leaves that hold each shard out."""

import hashlib
from collections.abc import Iterable, Sequence


def place(shards: Iterable[str], leaves: Sequence[str], replicas: int) -> dict[str, list[str]]:
    """Assigns each shard to leaves, the one to ask first at the front, by rendezvous hashing.

    A leaf more or less moves only the shards that it gets or had.
    """

    def rank(shard: str, leaf: str) -> bytes:
        return hashlib.sha256(f"{shard}\n{leaf}".encode()).digest()

    return {shard: sorted(leaves, key=lambda leaf: rank(shard, leaf))[:replicas] for shard in shards}
