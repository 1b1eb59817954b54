"""A root with a published build of many small shards and categories, for tests and benches of leaves."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from likeness.core.settings import Index
from likeness.index.build import BuildSpec, build_shard
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest, Shard
from likeness.index.shard_plan import PlannedShard

SPACE = "alexnet.fc6@1f3a9c02"


def publish_many(root: Path, shards: int, categories: int, rows: int, dim: int = 16) -> Manifest:
    """Builds `shards` flat shards of `categories` categories in all, `rows` random vectors each; seeded."""
    builds, rng = Builds(str(root)), np.random.default_rng(20260102)
    spec = BuildSpec(f"{builds.folder}/{SPACE}", "many", SPACE, dim, Index(kind="flat", audit_queries=1))
    names = np.array_split([f"category {number}" for number in range(categories)], shards)
    records = [_build(number, [str(name) for name in part], rows, spec, rng) for number, part in enumerate(names)]
    counts = dict.fromkeys(("images", "products", "vectors"), categories * rows)
    texts = {"build": "many", "run_id": "many", "created": "2026-01-02T00:00:00+00:00", "space": SPACE}
    manifest = Manifest(
        **texts, **counts, dim=dim, kind="flat", metric="cosine", snapshots={}, index_settings={}, shards=records
    )
    builds.write(manifest)
    builds.publish(manifest, 2)
    return manifest


def _build(number: int, names: list[str], rows: int, spec: BuildSpec, rng: np.random.Generator) -> Shard:
    items = [(hashlib.sha256(f"{name} {row}".encode()).hexdigest(), name) for name in names for row in range(rows)]
    vectors = rng.standard_normal((len(items), spec.dim), np.float32)

    def batches() -> Iterator[pa.RecordBatch]:
        ids, categories = zip(*sorted(items), strict=True)
        listed = [
            [{"category": name, "uri": f"file:///{key[:8]}", "products": [key[:8]]}]
            for key, name in zip(ids, categories, strict=True)
        ]
        columns = {"image_id": ids, "shown": listed, "vector": [vector.tobytes() for vector in vectors]}
        yield pa.RecordBatch.from_pydict(columns)

    return build_shard(PlannedShard(number, tuple(names)), batches(), spec)
