"""Builds: written whole, published by one rename, rolled back, verified."""

import datetime
import hashlib
import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.records import shard_record

from likeness.core.errors import DataError, UsageError
from likeness.index.build_files import checksum_of
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest, Shard, build_name
from likeness.storage.artifact import File

SPACE = "alexnet.fc6@1f3a9c02"


def shard(folder: Path, number: int, category: str = "hat", vectors: int = 3) -> Shard:
    records = []
    for end in ("faiss", "arrow"):
        path = folder / f"shard-{number:05d}.{end}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number} {end}".encode() * 50)
        data = path.read_bytes()
        records.append(
            File(name=f"{folder.name}/{path.name}", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        )
    return shard_record(number, category, vectors, (records[0], records[1]))


def manifest(root: Path, build: str, space: str = SPACE) -> Manifest:
    folder = root / "builds" / space / build
    return manifest_of(
        build, [shard(folder, 0, "裤子/2.0", 5), shard(folder, 1, "hat"), shard(folder, 2, "hat", 4)], space
    )


def manifest_of(build: str, shards: Sequence[Shard], space: str = SPACE) -> Manifest:
    return Manifest(
        build=build,
        run_id=build,
        created="2026-01-02T00:00:00+00:00",
        space=space,
        dim=4096,
        kind="flat",
        metric="cosine",
        snapshots={"listings": 2**62, "features": 5},
        index_settings={"kind": "flat", "max_shard_vectors": 10},
        images=12,
        products=9,
        vectors=12,
        shards=shards,
    )


def publish(root: Path, *names: str, keep: int = 5, space: str = SPACE) -> Builds:
    builds = Builds(str(root))
    for name in names:
        build = manifest(root, name, space)
        builds.write(build)
        builds.publish(build, keep)
    return builds


def there(root: Path, space: str = SPACE) -> list[str]:
    return sorted(path.name for path in (root / "builds" / space).iterdir() if path.name != "CURRENT")


def test_an_empty_root(tmp_path: Path) -> None:
    builds = Builds(str(tmp_path / "nothing"))
    assert builds.chain() == []
    assert builds.current() is None
    assert list(builds.all()) == []
    with pytest.raises(UsageError, match="nothing is published yet"):
        builds.find()
    with pytest.raises(UsageError, match="there are: none"):
        builds.find("b1")
    with pytest.raises(UsageError, match="no earlier build"):
        builds.rollback()
    assert not (tmp_path / "nothing").exists()


def test_a_manifest_comes_back_equal(tmp_path: Path) -> None:
    builds, build = Builds(str(tmp_path)), manifest(tmp_path, "b1")
    builds.write(build)
    assert builds.read(build.path) == build
    assert build.categories() == {"hat": 7, "裤子/2.0": 5}
    assert list(build.categories()) == ["hat", "裤子/2.0"]


def test_a_build_without_a_manifest_is_none(tmp_path: Path) -> None:
    builds, build = Builds(str(tmp_path)), manifest(tmp_path, "b1")
    assert list(builds.all()) == []
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        builds.read(build.path)
    builds.write(build)
    assert list(builds.all()) == [build.path]
    assert builds.current() is None  # whole, and not in service


def test_publishing_makes_a_chain(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", "b3")
    assert builds.chain() == [f"{SPACE}/{name}" for name in ("b3", "b2", "b1")]
    current = builds.current()
    assert current is not None
    assert current.build == "b3"
    content = json.loads((tmp_path / "builds" / SPACE / "CURRENT").read_text())
    assert content.pop("published") <= datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    assert content == {"current": "b3", "previous": ["b2", "b1"], "pinned": ""}
    assert sorted(path.name for path in (tmp_path / "builds").iterdir()) == [SPACE]


def test_publishing_again_says_nothing_new(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", "b2")
    assert builds.chain() == [f"{SPACE}/b2", f"{SPACE}/b1"]
    builds = publish(tmp_path, "b1")
    assert builds.chain() == [f"{SPACE}/b1", f"{SPACE}/b2"]


def test_the_last_builds_are_kept_and_older_ones_deleted(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", "b3", "b4", keep=3)
    assert builds.chain() == [f"{SPACE}/{name}" for name in ("b4", "b3", "b2")]
    assert there(tmp_path) == ["b2", "b3", "b4"]
    publish(tmp_path, "b5", keep=1)
    assert there(tmp_path) == ["b5"]
    assert list(builds.all()) == [f"{SPACE}/b5"]


def test_a_newer_build_that_is_not_published_is_kept_and_an_older_one_is_not(tmp_path: Path) -> None:
    builds = Builds(str(tmp_path))
    for name in ("b0", "b9"):
        builds.write(manifest(tmp_path, name))
    manifest(tmp_path, "b1")  # a killed run's: shards without a manifest
    publish(tmp_path, "b2", "b3")
    assert there(tmp_path) == ["b2", "b3", "b9"]


def grown(root: Path, build: str, base: Manifest) -> Manifest:
    """A build that has the shards of another, and one of its own."""
    more = shard(root / "builds" / SPACE / build, 3, "shoe", 2)
    return manifest_of(build, [*base.shards, more])


def test_shards_stay_as_long_as_a_later_build_has_them(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1")
    second = grown(tmp_path, "b2", builds.find("b1"))
    builds.write(second)
    builds.publish(second, 1)
    assert list(builds.all()) == [second.path]
    assert builds.problems(second) == builds.missing(second) == []
    third = manifest_of("b3", second.shards[1:])
    builds.write(third)
    builds.publish(third, 1)
    assert builds.problems(third) == []
    unused = {file.name for file in second.files} - {file.name for file in third.files}
    assert unused
    assert not any((tmp_path / "builds" / SPACE / name).exists() for name in unused)
    publish(tmp_path, "b4", keep=1)
    assert there(tmp_path) == ["b4"]


def test_a_file_that_is_gone_is_told_without_a_look_at_the_others(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1")
    build = grown(tmp_path, "b2", builds.find("b1"))
    lost = tmp_path / "builds" / SPACE / build.shards[0].index.name
    lost.unlink()
    assert builds.missing(build) == [f"file://{lost}"]


def test_garbage_is_what_neither_the_chain_names_nor_is_the_newest_of_its_space(tmp_path: Path) -> None:
    other = "efficientnet_lite0.pool@00000000"
    builds = publish(tmp_path, "b2", "b4")
    for name in ("b1", "b5", "b6"):
        builds.write(manifest(tmp_path, name))
    for name in ("b1", "b2"):
        builds.write(manifest(tmp_path, name, other))
    manifest(tmp_path, "b7")  # unfinished, of the space that is held
    manifest(tmp_path, "b3", other)  # somebody may be at work on it
    assert builds.sweep_all(SPACE) == (3, 4 * 6)
    assert there(tmp_path) == ["b2", "b4", "b6"]
    assert there(tmp_path, other) == ["b2", "b3"]


def test_builds_of_other_spaces_are_left_alone(tmp_path: Path) -> None:
    other = "efficientnet_lite0.pool@00000000"
    publish(tmp_path, "b1", space=other)
    builds = publish(tmp_path, "b2", "b3", keep=2)
    assert there(tmp_path, other) == ["b1"]
    assert builds.chain() == [f"{SPACE}/b3", f"{SPACE}/b2"]
    builds.rollback(to="b1")
    assert builds.chain()[0] == f"{other}/b1"


def test_a_build_is_deleted_manifest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the middle must not leave a manifest whose shards are gone."""
    builds = publish(tmp_path, "b1")
    deleted = []
    monkeypatch.setattr(builds, "_files", spy := _Spy(builds._files, deleted))
    assert spy
    build = manifest(tmp_path, "b2")
    builds.write(build)
    builds.publish(build, 1)
    assert [uri.removeprefix(f"{builds.folder}/{SPACE}/") for uri in deleted] == ["b1/manifest.json", "b1"]


class _Spy:
    def __init__(self, files: object, deleted: list[str]) -> None:
        self._files, self._deleted = files, deleted

    def __getattr__(self, name: str) -> object:
        return getattr(self._files, name)

    def delete(self, uri: str) -> None:
        self._deleted.append(uri)
        self._files.delete(uri)  # type: ignore[attr-defined]


def test_find(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2")
    assert [builds.find(name).build for name in ("", "b1", f"{SPACE}/b1", "b2")] == ["b2", "b1", "b1", "b2"]
    with pytest.raises(UsageError, match=r"build 'b3' is not in .*there are: .*/b1, .*/b2"):
        builds.find("b3")
    with pytest.raises(UsageError):
        builds.find("../../b1")


def test_rollback(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", "b3")
    assert builds.rollback() == (f"{SPACE}/b3", f"{SPACE}/b2")
    assert builds.rollback() == (f"{SPACE}/b2", f"{SPACE}/b1")
    with pytest.raises(UsageError, match="no earlier build"):
        builds.rollback()
    assert builds.chain() == [f"{SPACE}/b1"]
    assert there(tmp_path) == ["b1", "b2", "b3"]


def test_rollback_to(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", "b3", "b4")
    assert builds.rollback("b2") == (f"{SPACE}/b4", f"{SPACE}/b2")
    assert builds.chain() == [f"{SPACE}/b2", f"{SPACE}/b1"]
    assert builds.rollback("b4") == (f"{SPACE}/b2", f"{SPACE}/b4")  # and forward again
    assert builds.chain() == [f"{SPACE}/{name}" for name in ("b4", "b2", "b1")]
    assert builds.rollback("b4") == (f"{SPACE}/b4", f"{SPACE}/b4")
    with pytest.raises(UsageError, match="b9"):
        builds.rollback("b9")


def test_rollback_to_a_build_that_is_damaged_is_refused(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2")
    (tmp_path / "builds" / SPACE / "b1" / "manifest.json").unlink()
    with pytest.raises(DataError):
        builds.rollback()
    assert builds.chain()[0] == f"{SPACE}/b2"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"current": "x"}',
        b'{"current": 5, "previous": []}',
        b'{"current": "x", "previous": "yz"}',
        b"\xff",
    ],
)
def test_a_damaged_current_is_told_and_mended_by_rollback_to(tmp_path: Path, content: bytes) -> None:
    builds = publish(tmp_path, "b1", "b2")
    (tmp_path / "builds" / SPACE / "CURRENT").write_bytes(content)
    for call in (builds.chain, builds.current, builds.find, builds.rollback):
        with pytest.raises(DataError, match=r"CURRENT is damaged.*rollback --to"):
            call()
    assert builds.rollback("b1") == (None, f"{SPACE}/b1")
    assert builds.chain() == [f"{SPACE}/b1"]


@pytest.mark.parametrize("change", [{"dim": "many"}, {"format": 1}, {"surprise": 1}, {"shards": None}])
def test_a_damaged_manifest_is_told(tmp_path: Path, change: dict[str, object]) -> None:
    builds = publish(tmp_path, "b1")
    path = tmp_path / "builds" / SPACE / "b1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=r"(?s)manifest\.json is damaged .*roll back"):
        builds.current()


def test_problems(tmp_path: Path) -> None:
    builds, build = publish(tmp_path, "b1"), manifest(tmp_path, "b1")
    folder = tmp_path / "builds" / SPACE / "b1"
    assert builds.problems(build) == []
    (folder / "shard-00000.faiss").unlink()
    (folder / "shard-00000.arrow").write_bytes((folder / "shard-00000.arrow").read_bytes()[:-1])
    altered = bytearray((folder / "shard-00001.faiss").read_bytes())
    altered[7] ^= 1
    (folder / "shard-00001.faiss").write_bytes(altered)
    (folder / "shard-00002.arrow").unlink()
    (folder / "shard-00002.arrow").mkdir()
    missing, truncated, flipped, folder_now = builds.problems(build)
    assert missing == f"{builds.folder}/{SPACE}/b1/shard-00000.faiss is missing"
    assert "shard-00000.arrow has checksum" in truncated
    assert "shard-00001.faiss has checksum" in flipped
    assert build.shards[1].index.sha256[:12] in flipped
    assert "shard-00002.arrow cannot be read" in folder_now


def test_a_reader_sees_one_chain_or_the_other(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", "b3")
    whole = builds.chain()
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(tuple(builds.chain()))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(40):
        builds.rollback("b1")
        builds.rollback("b2")
        builds.rollback("b3")
    done.set()
    thread.join()
    assert seen <= {tuple(whole[2:]), tuple(whole[1:]), tuple(whole)}


def test_checksum_of() -> None:
    data = bytes(range(256)) * 10_000
    assert checksum_of(io.BytesIO(data)) == hashlib.sha256(data).hexdigest()
    file = io.BytesIO(data)
    file.seek(100)
    assert checksum_of(file) == hashlib.sha256(data[100:]).hexdigest()


def test_build_names_are_folder_names_that_sort_by_age() -> None:
    names = [
        build_name(run) for run in ("20260102T000000-nightly-ab", "20260102T000001-index-00", "20260103T000000-x-1")
    ]
    assert names == sorted(names)
    assert build_name("a/../b c:é") == "a----b-c--"
