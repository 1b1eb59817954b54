"""Peers on given vectors: a folder with vectors.npy and queries.npy in, a line of JSON out; needs no likeness.

Each is set as its own documentation advises, and turned until it finds enough on the first hundred queries.
"""

import itertools
import json
import logging
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ENOUGH = 0.99
EFFORTS = (16, 32, 64, 128, 256, 512)


def main() -> None:
    """Builds and searches the peers that are named after folder and k."""
    folder, k = Path(sys.argv[1]), int(sys.argv[2])
    queries = np.load(folder / "queries.npy")
    figures = []
    for name in sys.argv[3:]:
        vectors = np.load(folder / "vectors.npy")
        figures.append({"name": name, **measured(PEERS[name](vectors, k), vectors, queries, k)})
    print(json.dumps(figures))


def measured(turned, vectors, queries, k):
    """Build seconds, milliseconds a query and answers, at the first effort that finds enough, or at the last."""
    truth = np.argsort(-(queries[:100] @ vectors.T), axis=1)[:, :k].tolist()
    begun = time.perf_counter()
    first = next(turned)
    took = time.perf_counter() - begun
    for turn in itertools.chain([first], turned):
        effort, search = turn
        rows = [search(query) for query in queries[:100]]
        if np.mean([len(set(mine) & set(true)) / k for mine, true in zip(rows, truth, strict=True)]) >= ENOUGH:
            break
    spans, rows = [], []
    for query in queries:
        begun = time.perf_counter()
        answer = search(query)
        spans.append(time.perf_counter() - begun)
        rows.append([int(row) for row in answer])
    return {"effort": effort, "build_s": took, "p50_ms": 1000 * statistics.median(spans), "found": rows}


def usearch(vectors, k):
    """Float16 graph by inner product."""
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(vectors)), vectors)
    for effort in EFFORTS:
        index.expansion_search = effort
        yield effort, lambda query: index.search(query, k).keys


def hnswlib(vectors, k):
    """Graph of 32 links by inner product."""
    import hnswlib as library

    index = library.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), ef_construction=100, M=32)
    index.add_items(vectors)
    for effort in EFFORTS:
        index.set_ef(max(effort, k))
        yield effort, lambda query: index.knn_query(query, k)[0][0]


def scann(vectors, k):
    """Partitions, 4-bit codes of pairs, and exact ranking, as its guide for less than 100,000 vectors."""
    import scann as library

    leaves = int(len(vectors) ** 0.5)
    builder = library.scann_ops_pybind.builder(vectors, k, "dot_product")
    builder = builder.tree(leaves, max(1, leaves // 16), training_sample_size=len(vectors))
    index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()
    for effort in EFFORTS:
        few = max(1, leaves * effort // 512)
        yield (
            effort,
            lambda query, few=few: index.search(query, k, pre_reorder_num_neighbors=5 * k, leaves_to_search=few)[0],
        )


def autofaiss(vectors, k):
    """What it chooses within 4 GB, a tenth of them for its own work; its build turns and times it as well."""
    from autofaiss import build_index

    index, facts = build_index(
        vectors,
        save_on_disk=False,
        metric_type="ip",
        max_index_memory_usage="3.3G",
        current_memory_available="3.7G",
        verbose=logging.WARNING,
    )
    yield f"{facts['index_key']},{facts['index_param']}", lambda query: index.search(query[None], k)[1][0]


PEERS = {peer.__name__: peer for peer in (usearch, hnswlib, scann, autofaiss)}


if __name__ == "__main__":
    main()
