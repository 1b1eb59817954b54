"""Copies of builds on this machine: whole, checked, fetched once, and gone when nobody has used them for a day."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from likeness.core.errors import DataError, ServiceError
from likeness.index.local_cache import LocalCache
from likeness.storage.artifact import File

SPACE = "alexnet.fc6@1f3a9c02"


def put(root: Path, name: str, data: bytes) -> File:
    path = root / SPACE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return File(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    return tmp_path / "builds"


@pytest.fixture
def copies(tmp_path: Path, builds: Path) -> LocalCache:
    return LocalCache(f"file://{builds}", str(tmp_path / "cache"))


def test_a_copy_is_made_once_and_anew_when_it_was_cut_short(builds: Path, copies: LocalCache) -> None:
    file = put(builds, "one/shard-00000.faiss", b"an index")
    folder = copies.fetch(SPACE, [file])
    copy = folder / file.name
    assert copy.read_bytes() == b"an index"
    (builds / SPACE / file.name).unlink()
    assert copies.fetch(SPACE, [file]) == folder
    copy.write_bytes(b"an")
    with pytest.raises(DataError, match="roll back"):
        copies.fetch(SPACE, [file])


def test_what_is_not_what_the_manifest_says_is_refused(builds: Path, copies: LocalCache) -> None:
    file = put(builds, "one/shard-00000.faiss", b"an index")
    put(builds, "one/shard-00000.faiss", b"an owl!!")
    with pytest.raises(DataError, match=r"has checksum .*, not"):
        copies.fetch(SPACE, [file])


def test_copies_of_builds_not_used_for_a_day_go(builds: Path, copies: LocalCache) -> None:
    old, used, new = (put(builds, f"{name}/shard-00000.faiss", name.encode()) for name in ("old", "used", "new"))
    folder = copies.fetch(SPACE, [old, used])
    for name in ("old", "used"):
        os.utime(folder / name, (time.time() - 2 * 86_400,) * 2)
    copies.fetch(SPACE, [used, new])
    assert sorted(path.name for path in folder.iterdir()) == ["new", "used"]
    copies.clear()
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, builds: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    file = put(builds, "one/shard-00000.faiss", b"an index")
    with pytest.raises(ServiceError, match="cannot be copied to"):
        LocalCache(f"file://{builds}", str(tmp_path / "cache")).fetch(SPACE, [file])
