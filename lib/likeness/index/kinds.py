"""The table of index kinds: how each is made, what it costs, and what can be turned at a search.   [faiss]

An approximate kind finds candidates by short codes of the main axes, and ranks them by float16 vectors that may
stay on disk. To add a kind, add a row; nothing else changes.
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
"""What is turned at a search, by name; empty where there is nothing to turn."""

AXES, _SHARE = 192, 0.9
_BITS = 256
_LINKS = 32
_SCANNED = 1 << 20
_LISTED_FROM = 20_000


@dataclass(frozen=True)
class Kind:
    """One kind of index.

    `make(sample, rows, metric)` gives a trained, empty index for about `rows` vectors like the sample, float32
    (n, dim). `bytes_per_vector(dim)` is the memory in which searches never wait for the disk, `mapped(dim)` what of it
    a build leaves on disk. `knobs` go from the fastest to the most faithful; `parameters(knob, k, selector)` says them
    to FAISS. `sample` rows are trained on. A kind that does not `filters` is scanned, vector by vector, for what a
    filter allows.
    """

    name: str
    doc: str
    make: Callable[[np.ndarray, int, int], faiss.Index]
    bytes_per_vector: Callable[[int], int]
    knobs: Sequence[IndexParams] = ({},)
    parameters: Callable[[IndexParams, int, Any], Any] = lambda knob, k, selector: _faiss.SearchParameters(sel=selector)
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
    """Bits say on which side of its median each turned axis is: signs alone would be nearly all one after a ReLU."""
    axes = principal_axes(sample, _BITS, rotated=True)
    return _refined(axes, faiss.IndexLSH(axes.d_out, axes.d_out, False, True), sample, metric)


def _nearness(sample: np.ndarray, metric: int) -> int:
    """By what candidates are found: the Euclidean distance, where the vectors are of one length.

    It gives their inner products' order then. On some axes of many it keeps to that order better: an inner product of
    two near vectors loses what they have in common off the axes, a distance what they differ by there, which is less.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", sample, sample))  # without a copy of the sample
    lengths = lengths[lengths > 0]
    same = lengths.size and np.ptp(lengths) <= 1e-3 * lengths.max()
    return faiss.METRIC_L2 if same else metric


def _refined(axes: faiss.LinearTransform, codes: faiss.Index, sample: np.ndarray, metric: int) -> faiss.Index:
    """Candidates by `codes` of the vectors' main axes, ranked by the vectors in float16."""
    codes.train(axes.apply(sample))
    candidates = faiss.IndexPreTransform(axes, codes)
    candidates.is_trained = True
    candidates.metric_type = metric  # that by which they are ranked, whatever found them
    index = faiss.IndexRefine(candidates, _flat16(sample, 0, metric))
    index.is_trained = True
    return index


def _turned(turn: Callable[[IndexParams, int, Any], Any]) -> Callable[..., Any]:
    def parameters(knob: IndexParams, k: int, selector: Any) -> Any:
        inner = _faiss.SearchParametersPreTransform(index_params=turn(knob, k, selector))
        return _faiss.IndexRefineSearchParameters(k_factor=knob["refine"], base_index_params=inner)

    return parameters


_hnsw_turned = _turned(
    lambda knob, k, selector: _faiss.SearchParametersHNSW(
        sel=selector, efSearch=int(max(knob["ef_search"], k * knob["refine"]))
    )
)
_ivf_turned = _turned(lambda knob, k, selector: _faiss.SearchParametersIVF(sel=selector, nprobe=int(knob["nprobe"])))

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
            [
                {"ef_search": ef, "refine": refine}
                for ef, refine in (
                    (16, 2),
                    (32, 2),
                    (32, 3),
                    (64, 3),
                    (64, 5),
                    (128, 5),
                    (128, 10),
                    (256, 10),
                    (256, 20),
                    (512, 40),
                )
            ],
            _hnsw_turned,
            4096,
        ),
        Kind(
            "ivf_rabitq",
            f"inverted lists of 1-bit codes (RaBitQ) of at most {AXES} axes, ranked by float16",
            _ivf_rabitq,
            lambda dim: min(dim, AXES) // 8 + 24,
            [
                {"nprobe": nprobe, "refine": refine}
                for nprobe, refine in (
                    (8, 5),
                    (16, 10),
                    (32, 10),
                    (64, 20),
                    (128, 40),
                    (256, 80),
                    (1024, 80),
                    (1024, 160),
                    (4096, 320),
                )
            ],
            _ivf_turned,
            100_000,
        ),
        Kind(
            "hamming",
            f"scan of at most {_BITS} bits by Hamming distance, ranked by float16",
            _hamming,
            lambda dim: min(dim, _BITS) // 8 + 8,
            [{"refine": refine} for refine in (2, 5, 10, 20, 40, 80)],
            lambda knob, k, selector: _faiss.IndexRefineSearchParameters(k_factor=knob["refine"]),
            20_000,
            filters=False,
        ),
    )
}


def kind(name: str) -> Kind:
    """A kind by name.

    Raises:
        UsageError: unknown; names the known ones.
    """
    if name in KINDS:
        return KINDS[name]
    known = (AUTO, *KINDS)
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"index.kind = {name!r}: no such kind; {meant}known: {', '.join(known)}")


def check(name: str) -> None:
    """Says at once that a setting names no kind.

    Raises:
        UsageError: as `kind`.
    """
    if name != AUTO:
        kind(name)


def candidates(name: str, rows: int, dim: int, memory: float) -> list[Kind]:
    """The kinds to try for a shard, the one that is likely fastest first; the last of `auto` is exact.

    Args:
        name: a kind, which is the only candidate then, or `auto`.
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
    wanted = ["hnsw", *(["ivf_rabitq"] if rows >= _LISTED_FROM else []), "flat16"]
    fitting = [KINDS[one] for one in wanted if rows * KINDS[one].bytes_per_vector(dim) <= memory]
    return fitting or [min((KINDS[one] for one in wanted), key=lambda one: one.bytes_per_vector(dim))]
