"""Peers on given vectors: a folder with vectors.npy and queries.npy in, a line of JSON out; knows no room of ours.

Each is set as its own documentation advises, and turned until it finds enough on the first hundred queries.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ENOUGH = 0.99


def main() -> None:
    """Builds and searches each peer."""
    folder, k = Path(sys.argv[1]), int(sys.argv[2])
    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    truth = np.argsort(-(queries[:100] @ vectors.T), axis=1)[:, :k]
    found = []
    for name, build in (("usearch", usearch), ("hnswlib", hnswlib), ("ScaNN", scann)):
        begun = time.perf_counter()
        turn = build(vectors, k)
        took = time.perf_counter() - begun
        for effort in (16, 32, 64, 128, 256, 512):
            search = turn(effort)
            rows = [search(query) for query in queries[:100]]
            if np.mean([len(set(a) & set(b)) / k for a, b in zip(rows, truth.tolist(), strict=True)]) >= ENOUGH:
                break
        spans, rows = [], []
        for query in queries:
            begun = time.perf_counter()
            answer = search(query)
            spans.append(time.perf_counter() - begun)
            rows.append([int(row) for row in answer])
        told = {
            "name": name,
            "build_s": took,
            "p50_ms": 1000 * statistics.median(spans),
            "effort": effort,
            "found": rows,
        }
        found.append(told)
        print(f"{name}: {took:.1f} s, {told['p50_ms']:.3f} ms at effort {effort}", file=sys.stderr)
    print(json.dumps(found))


def usearch(vectors, k):
    """Float16 graph by inner product."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(vectors)), vectors)

    def turn(effort):
        index.expansion_search = effort
        return lambda query: index.search(query, k).keys

    return turn


def hnswlib(vectors, k):
    """Graph of 32 links by inner product."""
    import hnswlib as library

    index = library.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), ef_construction=100, M=32)
    index.add_items(vectors)

    def turn(effort):
        index.set_ef(max(effort, k))
        return lambda query: index.knn_query(query, k)[0][0]

    return turn


def scann(vectors, k):
    """Partitions, 4-bit codes of pairs, and exact ranking, as its guide for less than 100,000 vectors."""
    import scann as library

    leaves = int(len(vectors) ** 0.5)
    builder = library.scann_ops_pybind.builder(vectors, k, "dot_product")
    builder = builder.tree(leaves, max(1, leaves // 16), training_sample_size=len(vectors))
    index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def turn(effort):
        leaves_searched = max(1, leaves * effort // 512)
        return lambda query: index.search(query, k, pre_reorder_num_neighbors=5 * k, leaves_to_search=leaves_searched)[
            0
        ]

    return turn


if __name__ == "__main__":
    main()
