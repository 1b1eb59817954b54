"""Sample queries: photos of a build with their nearest neighbours, for a person to judge. Tables and shards in,
tiles with thumbnails out.   [pyarrow]
"""

import base64
import itertools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.errors import DataError, LikenessError
from likeness.images.contact_sheet import encode_image, thumbnail
from likeness.index import tombstones
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest, Shard
from likeness.index.shard import Hit, merge
from likeness.serving.leaf import Leaf
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES

_ROWS, _NEIGHBOURS, _SIDE = 6, 6, 140
_TRIES = 1000
"""Rows of a shard of many categories in which one of a category is looked for."""
_BUDGET = 8 << 30
"""Bytes of shards that a report may read; a larger build is searched in a part of its shards."""


@dataclass(frozen=True)
class Tile:
    """One photo of a sample: a query (no score) or a neighbour, its thumbnail as base64 of a JPEG."""

    image_id: str
    category: str
    uri: str
    score: float | None
    photo: str | None


@dataclass(frozen=True)
class _Query:
    image_id: str
    category: str
    uri: str
    shard: Shard


def draw(builds: Builds, manifest: Manifest, warehouse: TableReader) -> dict[str, Any]:
    """Rows of tiles, each a random image of its own category and the nearest others of all categories.

    Returns:
        `rows`, and how many shards were `searched`; `missing` says why there are none.
    """
    try:
        queries = pick(builds, manifest)
        chosen = within(manifest.shards, {query.shard.number for query in queries}, _BUDGET)
        vectors = _vectors(warehouse, manifest.space, [query.image_id for query in queries])
        queries = [query for query in queries if query.image_id in vectors]
        if not queries:
            raise DataError(f"the features table has no vector of {manifest.space} for any photo picked")
        found = nearest(builds, manifest, chosen, np.stack([vectors[query.image_id] for query in queries]))
        rows = [_tiles(query, hits) for query, hits in zip(queries, found, strict=True)]
        return {"rows": _with_photos(rows, warehouse), "searched": len(chosen), "missing": ""}
    except LikenessError as error:
        return {"rows": [], "searched": 0, "missing": str(error)}


def id_map(builds: Builds, manifest: Manifest, shard: Shard) -> pa.Table:
    """The living images of a shard (`image_id`, `shown`).

    Raises:
        DataError: it cannot be read.
    """
    uri = builds.uri(manifest, shard.ids)
    alone = manifest.model_copy(update={"shards": [shard]})
    try:
        folder = builds.local(alone, [shard.ids, *([manifest.removed] if manifest.removed else [])])
        ids = pa.ipc.open_file(pa.memory_map(str(folder / shard.ids.name))).read_all()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{uri} cannot be read: {error}; see `likeness verify`") from None
    if ids.num_rows != shard.vectors:
        raise DataError(f"{uri} has {ids.num_rows} rows, the manifest says {shard.vectors}; see `likeness verify`")
    dead = tombstones.load(folder, alone).get(shard.number)
    return ids if dead is None else ids.filter(pc.invert(pc.is_in(ids["id"], pa.array(dead))))


def pick(builds: Builds, manifest: Manifest) -> list[_Query]:
    """Random images, of as many categories as there are rows; the same build gives the same ones."""
    chance = random.Random(manifest.build)
    parts: dict[str, list[Shard]] = {}
    for shard in manifest.shards:
        for category in shard.categories:
            parts.setdefault(category, []).append(shard)
    names = sorted(parts)
    chance.shuffle(names)
    found: dict[str, _Query] = {}
    # few categories come round again; in a tiny build they give an image twice, so there is a limit to the tries
    for name in itertools.islice(itertools.cycle(names), 4 * _ROWS):
        shard = chance.choices(parts[name], [part.categories[name] for part in parts[name]])[0]
        ids = id_map(builds, manifest, shard)
        for row in chance.sample(range(ids.num_rows), min(ids.num_rows, _TRIES)):
            uri = next((one["uri"] for one in ids["shown"][row].as_py() if one["category"] == name), None)
            if uri is not None:
                image_id = ids["image_id"][row].as_py()
                found.setdefault(image_id, _Query(image_id, name, uri, shard))
                break
        if len(found) == _ROWS:
            break
    return list(found.values())


def within(shards: Sequence[Shard], first: Collection[int], budget: int) -> list[Shard]:
    """As many shards as a budget of bytes allows, those in `first` (by number) before all others."""
    ranked = sorted(shards, key=lambda shard: (shard.number not in first, shard.number))
    totals = itertools.accumulate(shard.index.bytes for shard in ranked)
    return [shard for shard, total in zip(ranked, totals, strict=True) if total <= budget or shard.number in first]


def nearest(builds: Builds, manifest: Manifest, shards: Sequence[Shard], queries: np.ndarray) -> list[list[Hit]]:
    """The nearest images of each query, float32 (q, dim), itself among them.

    One shard at a time is in memory: a build may be larger than that of the machine that writes the report.
    """
    found: list[list[Sequence[Hit]]] = [[] for _ in queries]
    for shard in shards:
        leaf = Leaf(builds, manifest.model_copy(update={"shards": [shard]}))
        answer = leaf.search(queries, _NEIGHBOURS + 1, manifest.space, None)
        for hits, more in zip(found, answer.hits, strict=True):
            hits.append(more)
    return [merge(hits, _NEIGHBOURS + 1) for hits in found]


def _vectors(warehouse: TableReader, space: str, image_ids: Sequence[str]) -> dict[str, np.ndarray]:
    wanted = ", ".join(f"'{key}'" for key in image_ids)
    rows = warehouse.read(FEATURES, ("image_id", "vector"), f"space = '{space}' AND image_id IN ({wanted})")
    pairs = zip(rows["image_id"].to_pylist(), rows["vector"], strict=True)
    return {key: np.asarray(vector.values, np.float32) for key, vector in pairs}


def _tiles(query: _Query, hits: Sequence[Hit]) -> list[Tile]:
    others = [hit for hit in hits if hit.image_id != query.image_id][:_NEIGHBOURS]
    first = Tile(query.image_id, query.category, query.uri, None, None)
    return [first, *(Tile(hit.image_id, hit.category, hit.uri, hit.score, None) for hit in others)]


def _with_photos(rows: Sequence[Sequence[Tile]], warehouse: TableReader) -> list[list[Tile]]:
    photos = warehouse.photos({tile.image_id for row in rows for tile in row})
    drawn = {key: _drawn(data) for key, data in photos.items()}
    return [
        [Tile(tile.image_id, tile.category, tile.uri, tile.score, drawn.get(tile.image_id)) for tile in row]
        for row in rows
    ]


def _drawn(data: bytes) -> str | None:
    small = thumbnail(data, _SIDE)
    return base64.b64encode(encode_image(small, "JPEG")).decode() if small else None
