"""Index kinds: how each is created, its memory, and its search parameters.   [faiss]

An approximate kind finds candidates by short codes of the principal axes, and ranks them by float16 vectors that may
stay on disk. To add a kind, add a row to `KINDS`; nothing else changes.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from likeness.core.errors import UsageError
from likeness.index.pca import principal_axes

_faiss: Any = faiss  # its type stubs know few search parameters
AUTO = "auto"
IndexParams = Mapping[str, float]
"""Search parameters by name; empty for a kind that has none."""

AXES, _SHARE = 192, 0.9
_BITS = 256
_LINKS = 32
_SCANNED = 1 << 20
_LISTED_FROM = 20_000
_HNSW_GRID = ((16, 2), (32, 2), (32, 3), (64, 3), (64, 5), (128, 5), (128, 10), (256, 10), (256, 20), (512, 40))
_IVF_GRID = ((8, 5), (16, 10), (32, 10), (64, 20), (128, 40), (256, 80), (1024, 80), (1024, 160), (4096, 320))


@dataclass(frozen=True)
class Kind:
    """One kind of index.

    `make(sample, rows, metric)` returns a trained, empty index for about `rows` vectors like the sample, float32
    (n, dim). `bytes_per_vector(dim)` is the memory in which searches never wait for the disk, `mapped(dim)` the part
    of it that a build leaves on disk. `params_grid` lists search parameters from the fastest to the most accurate;
    `search_parameters(index_params, k, selector)` converts them to FAISS's. `sample` is the number of rows to train
    on. A kind without `filters` scans the rows that a filter allows.
    """

    name: str
    doc: str
    make: Callable[[np.ndarray, int, int], faiss.Index]
    bytes_per_vector: Callable[[int], int]
    params_grid: Sequence[IndexParams] = ({},)
    search_parameters: Callable[[IndexParams, int, Any], Any] = lambda _, k, sel: _faiss.SearchParameters(sel=sel)
    sample: int = 0
    filters: bool = True
    mapped: Callable[[int], int] = lambda dim: 0


def _flat(sample: np.ndarray, rows: int, metric: int) -> faiss.Index:
    return faiss.IndexFlat(sample.shape[1], metric)


def _flat16(sample: np.ndarray, rows: int, metric: int) -> faiss.Index:
    return faiss.IndexScalarQuantizer(sample.shape[1], faiss.ScalarQuantizer.QT_fp16, metric)


def _hnsw(sample: np.ndarray, rows: int, metric: int) -> faiss.Index:
    axes, near = principal_axes(sample, AXES, _SHARE), _nearness(sample, metric)
    return _refined(axes, _faiss.IndexHNSWSQ(axes.d_out, faiss.ScalarQuantizer.QT_8bit, _LINKS, near), sample, metric)


def _ivf_rabitq(sample: np.ndarray, rows: int, metric: int) -> faiss.Index:
    axes = principal_axes(sample, AXES, _SHARE, rotated=True)
    lists = max(1, min(int(4 * rows**0.5), len(sample) // 40))
    codes = faiss.index_factory(axes.d_out, f"IVF{lists},RaBitQ", _nearness(sample, metric))
    return _refined(axes, codes, sample, metric)


def _hamming(sample: np.ndarray, rows: int, metric: int) -> faiss.Index:
    """A bit tells the side of the median on each rotated axis: after a ReLU, signs alone would nearly all be one."""
    axes = principal_axes(sample, _BITS, rotated=True)
    return _refined(axes, faiss.IndexLSH(axes.d_out, axes.d_out, False, True), sample, metric)


def _nearness(sample: np.ndarray, metric: int) -> int:
    """The metric for candidates: the Euclidean distance if all vectors have one length, else the build's metric.

    For vectors of one length it ranks as the inner product does. On a subset of the axes it ranks more accurately:
    the inner product of two near vectors loses what they share off these axes, the distance only their difference.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", sample, sample))  # without a copy of the sample
    lengths = lengths[lengths > 0]
    same = lengths.size and np.ptp(lengths) <= 1e-3 * lengths.max()
    return faiss.METRIC_L2 if same else metric


def _refined(axes: faiss.LinearTransform, codes: faiss.Index, sample: np.ndarray, metric: int) -> faiss.Index:
    """Candidates by `codes` of the vectors' principal axes, ranked by the vectors in float16."""
    codes.train(axes.apply(sample))
    candidates = faiss.IndexPreTransform(axes, codes)
    candidates.is_trained = True
    candidates.metric_type = metric  # the metric that ranks the candidates
    index = faiss.IndexRefine(candidates, _flat16(sample, 0, metric))
    index.is_trained = True
    return index


def _hnsw_parameters(params: IndexParams, k: int, selector: Any) -> Any:
    depth = int(max(params["ef_search"], k * params["refine"]))
    return _refined_parameters(params, _faiss.SearchParametersHNSW(sel=selector, efSearch=depth))


def _ivf_parameters(params: IndexParams, k: int, selector: Any) -> Any:
    return _refined_parameters(params, _faiss.SearchParametersIVF(sel=selector, nprobe=int(params["nprobe"])))


def _refined_parameters(params: IndexParams, codes: Any) -> Any:
    """FAISS's parameters of a refined index, given those of the index of codes."""
    base = _faiss.SearchParametersPreTransform(index_params=codes)
    return _faiss.IndexRefineSearchParameters(k_factor=params["refine"], base_index_params=base)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("flat", "exact, float32", _flat, lambda dim: 4 * dim + 8),
        Kind(
            "flat16",
            "exact scan over float16: half the memory, scores to about 1e-3",
            _flat16,
            lambda dim: 2 * dim + 8,
            mapped=lambda dim: 2 * dim,
        ),
        Kind(
            "hnsw",
            f"graph of {_LINKS} links over 8-bit codes of at most {AXES} axes, ranked by float16",
            _hnsw,
            lambda dim: min(dim, AXES) + 9 * _LINKS + 8,
            [{"ef_search": ef, "refine": refine} for ef, refine in _HNSW_GRID],
            _hnsw_parameters,
            4096,
        ),
        Kind(
            "ivf_rabitq",
            f"inverted lists of 1-bit codes (RaBitQ) of at most {AXES} axes, ranked by float16",
            _ivf_rabitq,
            lambda dim: min(dim, AXES) // 8 + 24,
            [{"nprobe": nprobe, "refine": refine} for nprobe, refine in _IVF_GRID],
            _ivf_parameters,
            100_000,
        ),
        Kind(
            "hamming",
            f"scan of at most {_BITS} bits by Hamming distance, ranked by float16",
            _hamming,
            lambda dim: min(dim, _BITS) // 8 + 8,
            [{"refine": refine} for refine in (2, 5, 10, 20, 40, 80)],
            lambda params, k, selector: _faiss.IndexRefineSearchParameters(k_factor=params["refine"]),
            20_000,
            filters=False,
        ),
    )
}


def kind(name: str) -> Kind:
    """Returns a kind by name.

    Raises:
        UsageError: unknown; names the known ones.
    """
    if name in KINDS:
        return KINDS[name]
    names = (AUTO, *KINDS)
    suggestion = "".join(f"did you mean {near}? " for near in difflib.get_close_matches(name, names, n=1))
    raise UsageError(f"index.kind = {name!r}: no such kind; {suggestion}known: {', '.join(names)}")


def check(name: str) -> None:
    """Checks the setting `index.kind`: a run does so first, to fail before its work in Spark and not after it.

    Raises:
        UsageError: as `kind`.
    """
    if name != AUTO:
        kind(name)


def candidates(name: str, rows: int, dim: int, memory: float) -> list[Kind]:
    """The kinds to try for a shard, the one that is likely fastest first; the last of `auto` is exact.

    Args:
        name: a kind, which is then the only candidate, or `auto`.
        rows: vectors of the shard.
        dim: of each.
        memory: bytes that the shard may hold at search.

    Raises:
        UsageError: no such kind.
    """
    if name != AUTO:
        return [kind(name)]
    if rows * dim <= _SCANNED:
        return [KINDS["flat"]]
    ranked = [KINDS[name] for name in ("hnsw", *(["ivf_rabitq"] if rows >= _LISTED_FROM else []), "flat16")]
    fitting = [kind for kind in ranked if rows * kind.bytes_per_vector(dim) <= memory]
    return fitting or [min(ranked, key=lambda kind: kind.bytes_per_vector(dim))]
