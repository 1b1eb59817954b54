"""The smallest search service that answers alike: FastAPI, a flat FAISS index in memory, the same encoder.

`python -m tests.bench.minimal_service ROOT CACHE [WORKERS]` serves the build in service of a root of one category, and
prints where it listens. It has no keys, limits, filters, facts, metrics or log: what it is faster by is their price.
"""

import os
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import faiss
import numpy as np
import uvicorn
from fastapi import FastAPI, File, HTTPException
from pydantic import BaseModel

from likeness.core.settings import Settings
from likeness.index import distance
from likeness.index.builds import Builds
from likeness.index.shard import LoadedShard
from likeness.serving.encoder import Encoder

K = 10


class Near(BaseModel):
    """A near product."""

    product_id: str
    score: float


class Index:
    """Vectors of a shard in a flat index, and the product of each row."""

    def __init__(self, root: str, cache_folder: str) -> None:
        self.manifest = manifest = Builds(root).find()
        (record,) = manifest.shards
        shard = LoadedShard(record, Path(root, "builds", manifest.space), manifest.metric)
        rows = np.arange(record.vectors)
        self.vectors = shard.searcher.vectors(rows)
        self.products = [hit.products[0] for hit in shard.hits(np.zeros(record.vectors), rows)]
        self.row_of = {product: row for row, product in enumerate(self.products)}
        self.flat = faiss.IndexFlatIP(self.vectors.shape[1])
        self.flat.add(self.vectors)
        settings = Settings()
        extract = settings.extract.model_copy(update={"cache": cache_folder})
        self.encoder = Encoder(settings.model_copy(update={"root": root, "extract": extract}), manifest.space)

    def nearest(self, vectors: np.ndarray, k: int) -> list[Near]:
        """The products nearest to a prepared vector, float32 (1, dim)."""
        scores, rows = self.flat.search(vectors, k)
        pairs = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
        return [Near(product_id=self.products[row], score=score) for score, row in pairs]


def create_app() -> FastAPI:
    """The application, for the root and the cache that the environment names."""
    app = FastAPI()
    index = cache(lambda: Index(os.environ["MINIMAL_ROOT"], os.environ["MINIMAL_CACHE"]))

    @app.get("/v1/products/{product_id}/similar")
    def similar(product_id: str, k: int = K) -> list[Near]:
        row = index().row_of.get(product_id)
        if row is None:
            raise HTTPException(404)
        return [one for one in index().nearest(index().vectors[row : row + 1], k + 1) if one.product_id != product_id]

    @app.post("/v1/search")
    def search(image: Annotated[bytes, File()], k: int = K) -> list[Near]:
        vectors = index().encoder.encode(image)
        return index().nearest(distance.prepared(vectors, index().manifest.metric), k)

    @app.get("/readyz")
    def ready() -> int:
        return len(index().products)

    return app


def main(root: str, cache_folder: str, workers: str = "1") -> None:
    """Serves until it is ended."""
    os.environ |= {"MINIMAL_ROOT": root, "MINIMAL_CACHE": cache_folder}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    app = "tests.bench.minimal_service:create_app"
    uvicorn.run(app, factory=True, port=port, workers=int(workers), log_level="error", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
