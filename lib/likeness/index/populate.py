"""Population of a trained index: vectors in, an index with codes in memory and float16 on disk out.   [faiss]"""

import math
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np

from likeness.index.kinds import AXES, Kind
from likeness.index.pca import SAMPLE

_ROWS = 8192
_NAMED = 56
"""Bytes of a vector's id, and of the map from ids to rows."""
_APART = 16 << 20
"""Bytes that were freed and not returned to the system."""


def populate(index: faiss.Index, vectors: np.ndarray, keys: np.ndarray, folder: Path) -> faiss.IndexIDMap2:
    """Adds vectors under their ids to an index.

    The float16 vectors of an index that has them are written to `folder` and mapped; further indexes with the same
    `folder` share the file. So only codes and links take memory.

    Args:
        index: trained and empty, as `Kind.make` gives it.
        vectors: prepared, float32 (n, dim); may be a mapped file.
        keys: ids, int64 (n,).
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


def peak_memory(kind: Kind, rows: int, dim: int) -> int:
    """The highest memory, in bytes, while an index is trained and filled; mapped files are not counted.

    A sample is projected, and the projection copied twice, to train on. While FAISS adds a block to a full list it
    holds the list, a copy and the block; lists double.
    """
    trained = min(rows, kind.sample)
    sample = 4 * trained * (dim + 3 * AXES) + 4 * min(trained, SAMPLE) * 5 * AXES
    capacity = rows if rows <= _ROWS else _ROWS * (1 + 2 ** math.ceil(math.log2(rows / _ROWS)))
    codes = capacity * (kind.bytes_per_vector(dim) - kind.mapped(dim)) + rows * _NAMED
    return max(sample, codes, min(rows, _ROWS) * 2 * dim) + _APART


def _add(index: Any, vectors: np.ndarray) -> None:
    for start in range(0, len(vectors), _ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + _ROWS]))


def _mapped(empty: Any, vectors: np.ndarray, folder: Path) -> Any:
    """Writes the index with the vectors as codes, in FAISS's file format, and maps it.

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
