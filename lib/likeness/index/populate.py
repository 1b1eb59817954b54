"""Vectors into a trained index: a matrix in, an index out that holds codes in memory and float16 on disk.   [faiss]"""

import math
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np

from likeness.index.kinds import AXES, Kind
from likeness.index.pca import SAMPLE

_ROWS = 8192
_NAMED = 56
"""Bytes of a vector's id, and of its way back to the vector."""
_APART = 16 << 20
"""Bytes that were freed and not given back."""


def populate(index: faiss.Index, vectors: np.ndarray, keys: np.ndarray, folder: Path) -> faiss.IndexIDMap2:
    """An index of the vectors under their ids.

    The float16 vectors of an index that has them are written to `folder` and mapped, by the first index that is
    filled there; those after it share them. So memory is taken by codes and links alone.

    Args:
        index: trained and empty, as `Kind.make` gives it.
        vectors: prepared, float32 (n, dim); may be a mapped file.
        keys: int64 (n,).
        folder: local; it must outlive the index.
    """
    whole = faiss.IndexIDMap2(index)
    named, exact = cast(Any, whole), None
    if isinstance(index, faiss.IndexRefine):
        exact = index.refine_index = _mapped(faiss.downcast_index(index.refine_index), vectors, folder)
        _add(faiss.downcast_index(index.base_index), vectors)
        index.ntotal = len(vectors)
    elif isinstance(index, faiss.IndexScalarQuantizer):
        exact = named.index = _mapped(index, vectors, folder)
    else:
        _add(index, vectors)
    named.ntotal = len(vectors)
    named.referenced_objects.append(exact)  # which FAISS does not own
    faiss.copy_array_to_vector(keys, named.id_map)
    named.construct_rev_map()
    return whole


def peak_memory(one: Kind, rows: int, dim: int) -> int:
    """Bytes that it takes to make and fill an index, mapped files apart, at the peak.

    A sample is projected, and the projection copied twice, to train on. While FAISS adds a block to a full list it
    holds the list, a copy and the block; lists double.
    """
    trained = min(rows, one.sample)
    sample = 4 * trained * (dim + 3 * AXES) + 4 * min(trained, SAMPLE) * 5 * AXES
    held = rows if rows <= _ROWS else _ROWS * (1 + 2 ** math.ceil(math.log2(rows / _ROWS)))
    codes = held * (one.bytes_per_vector(dim) - one.mapped(dim)) + rows * _NAMED
    return max(sample, codes, min(rows, _ROWS) * 2 * dim) + _APART


def _add(index: Any, vectors: np.ndarray) -> None:
    for start in range(0, len(vectors), _ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + _ROWS]))


def _mapped(empty: Any, vectors: np.ndarray, folder: Path) -> Any:
    """The index with the vectors as codes, in FAISS's own file format.

    An empty index's file ends with the number of the codes' bytes; its number of vectors is the 64 bits at 8.
    """
    path = folder / "float16.faiss"
    if not path.exists():
        head = bytearray(faiss.serialize_index(empty))
        head[8:16] = len(vectors).to_bytes(8, "little")
        head[-8:] = (len(vectors) * empty.code_size).to_bytes(8, "little")
        with path.open("wb") as file:
            file.write(head)
            for start in range(0, len(vectors), _ROWS):
                file.write(empty.sa_encode(np.ascontiguousarray(vectors[start : start + _ROWS])))
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
