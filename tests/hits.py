"""What a shard answers, as people read it."""

from collections.abc import Collection

import numpy as np

from likeness.index.shard import Hit, LoadedShard


def hits_of(
    shard: LoadedShard, queries: np.ndarray, k: int, categories: Collection[str] | None = None
) -> list[list[Hit]]:
    """The k nearest images of each prepared query, float32 (q, dim), in one shard; fewer if it finds fewer."""
    near = shard.find(queries, k, categories)
    query_rows = ((scores, rows, rows >= 0) for scores, rows in zip(near.scores, near.rows, strict=True))
    return [shard.hits(scores[good], rows[good], categories) for scores, rows, good in query_rows]
