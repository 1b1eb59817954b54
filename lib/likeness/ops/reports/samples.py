"""Sample queries of a report: random photos of a build with their nearest neighbours, for a person to judge.

Tables and shards in, tiles with thumbnails out.   [pyarrow]
"""

import itertools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.errors import DataError, LikenessError
from likeness.index import tombstones
from likeness.index.builds import Builds
from likeness.index.ids import read_id_map
from likeness.index.manifest import Manifest, Shard
from likeness.index.shard import Hit, merge
from likeness.ops.reports.pages import inline_thumbnail
from likeness.serving.leaf import Leaf, LeafQuery
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES

_ROWS, _NEIGHBOURS = 6, 6
_TRIES = 1000
"""Random rows of a shard of many categories that are tried for one of a given category."""
_BUDGET = 8 << 30
"""Bytes of shards that a report may read; of a larger build only some shards are searched."""


@dataclass(frozen=True)
class Tile:
    """A photo of a sample: a query (without a score) or a neighbour; `photo` is its thumbnail, a JPEG in base64."""

    image_id: str
    category: str
    uri: str
    score: float | None = None
    photo: str | None = None


@dataclass(frozen=True)
class Samples:
    """Rows of tiles, a query and its neighbours each; `missing` is the reason if there are none.

    `searched` is the number of shards that were searched.
    """

    rows: Sequence[Sequence[Tile]] = ()
    searched: int = 0
    missing: str = ""


def draw_samples(builds: Builds, manifest: Manifest, tables: TableReader) -> Samples:
    """Searches a build for random images of several categories, each in all categories."""
    try:
        picked = pick(builds, manifest)
        chosen = within(manifest.shards, {number for _, number in picked}, _BUDGET)
        vectors = _vectors(tables, manifest.space, [query.image_id for query, _ in picked])
        queries = [query for query, _ in picked if query.image_id in vectors]
        if not queries:
            raise DataError(f"the features table has no vector of {manifest.space} for any photo picked")
        hits = nearest(builds, manifest, chosen, np.stack([vectors[query.image_id] for query in queries]))
        rows = [_row(query, neighbours) for query, neighbours in zip(queries, hits, strict=True)]
        return Samples(_with_photos(rows, tables), len(chosen))
    except LikenessError as error:
        return Samples(missing=str(error))


def id_map(builds: Builds, manifest: Manifest, shard: Shard) -> pa.Table:
    """Reads the images of a shard that are not tombstoned (`image_id`, `shown`).

    Raises:
        DataError: the id map is missing or damaged.
    """
    uri = builds.uri(manifest, shard.ids)
    alone = manifest.model_copy(update={"shards": [shard]})
    try:
        folder = builds.local(alone, [shard.ids, *([manifest.tombstones] if manifest.tombstones else [])])
        ids = read_id_map(pa.memory_map(str(folder / shard.ids.name)))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{uri} cannot be read: {error}; see `likeness verify`") from None
    if ids.num_rows != shard.vectors:
        raise DataError(f"{uri} has {ids.num_rows} rows, the manifest says {shard.vectors}; see `likeness verify`")
    tombstoned = tombstones.load(folder, alone).get(shard.number)
    return ids if tombstoned is None else ids.filter(pc.invert(pc.is_in(ids["id"], pa.array(tombstoned))))


def pick(builds: Builds, manifest: Manifest) -> list[tuple[Tile, int]]:
    """Picks random images of as many categories as possible, each with the number of its shard.

    The same build gives the same images.
    """
    chance = random.Random(manifest.build)
    parts: dict[str, list[Shard]] = {}
    for shard in manifest.shards:
        for category in shard.categories:
            parts.setdefault(category, []).append(shard)
    names = sorted(parts)
    chance.shuffle(names)
    queries: dict[str, tuple[Tile, int]] = {}
    # a few categories are tried several times; a tiny build has too few images, so the number of tries is limited
    for name in itertools.islice(itertools.cycle(names), 4 * _ROWS):
        shard = chance.choices(parts[name], [part.categories[name] for part in parts[name]])[0]
        ids = id_map(builds, manifest, shard)
        for row in chance.sample(range(ids.num_rows), min(ids.num_rows, _TRIES)):
            uri = next((one["uri"] for one in ids["shown"][row].as_py() if one["category"] == name), None)
            if uri is not None:
                image_id = ids["image_id"][row].as_py()
                queries.setdefault(image_id, (Tile(image_id, name, uri), shard.number))
                break
        if len(queries) == _ROWS:
            break
    return list(queries.values())


def within(shards: Sequence[Shard], first: Collection[int], budget: int) -> list[Shard]:
    """As many shards as fit into a budget of bytes; the shards numbered in `first` are always among them."""
    ranked = sorted(shards, key=lambda shard: (shard.number not in first, shard.number))
    totals = itertools.accumulate(shard.index.bytes for shard in ranked)
    return [shard for shard, total in zip(ranked, totals, strict=True) if total <= budget or shard.number in first]


def nearest(builds: Builds, manifest: Manifest, shards: Sequence[Shard], queries: np.ndarray) -> list[list[Hit]]:
    """Searches shards for the nearest images of each query, float32 (q, dim); the query's own image is among them.

    One shard at a time is in memory, because a build may be larger than the memory of this machine.
    """
    query = LeafQuery(queries, _NEIGHBOURS + 1, manifest.space)
    parts = [Leaf(builds, manifest.model_copy(update={"shards": [shard]})).search(query).hits for shard in shards]
    return [merge(hits, _NEIGHBOURS + 1) for hits in zip(*parts, strict=True)]


def _vectors(tables: TableReader, space: str, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    keys = ", ".join(f"'{key}'" for key in image_ids)
    rows = tables.read(FEATURES, ("image_id", "vector"), f"space = '{space}' AND image_id IN ({keys})")
    pairs = zip(rows["image_id"].to_pylist(), rows["vector"], strict=True)
    return {key: np.asarray(vector.values, np.float32) for key, vector in pairs}


def _row(query: Tile, hits: Sequence[Hit]) -> list[Tile]:
    others = [hit for hit in hits if hit.image_id != query.image_id][:_NEIGHBOURS]
    return [query, *(Tile(hit.image_id, hit.category, hit.uri, hit.score) for hit in others)]


def _with_photos(rows: Sequence[Sequence[Tile]], tables: TableReader) -> list[list[Tile]]:
    photos = tables.photos({tile.image_id for row in rows for tile in row})
    thumbnails = {key: inline_thumbnail(data) for key, data in photos.items()}
    return [[replace(tile, photo=thumbnails.get(tile.image_id)) for tile in row] for row in rows]
