"""Tombstones: the deleted rows of a build's shards, which searches skip. Arrow bytes in and out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from likeness.core.errors import DataError
from likeness.index.manifest import Manifest

SCHEMA = pa.schema([("shard", pa.int32()), ("id", pa.int64())])
"""One deleted row of a shard; sorted by both."""


def dump(deleted: Mapping[int, np.ndarray]) -> bytes:
    """Converts the deleted ids of each shard, int64, to the bytes of a file."""
    shards = [np.full(len(deleted[number]), number, np.int32) for number in sorted(deleted)]
    ids = [np.sort(deleted[number]) for number in sorted(deleted)]
    table = pa.table([np.concatenate(shards), np.concatenate(ids)], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def parse(data: bytes, name: str) -> dict[int, np.ndarray]:
    """Converts the bytes of the file `name` to sorted ids by shard.

    Raises:
        DataError: the bytes are no tombstones.
    """
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all().cast(SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{name} holds no tombstones: {error}", "see `likeness verify`") from None
    shards, ids = table["shard"].to_numpy(), table["id"].to_numpy()
    starts = np.flatnonzero(np.diff(shards, prepend=-1))
    return {int(shards[start]): part for start, part in zip(starts, np.split(ids, starts[1:]), strict=True)}


def load(folder: Path, manifest: Manifest) -> dict[int, np.ndarray]:
    """Reads the tombstones of a build whose files are in a local folder.

    Raises:
        DataError: the file is missing or damaged.
    """
    if manifest.tombstones is None:
        return {}
    path = folder / manifest.tombstones.name
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}", "see `likeness verify`") from None
