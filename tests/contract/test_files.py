"""What every store of files does (likeness.storage.ports.Files). Add a factory to try another store."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from likeness import storage
from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.storage import Files


def local(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store"


def hdfs(request: pytest.FixtureRequest) -> str:
    return f"{request.getfixturevalue('stack').hdfs}/contract/{uuid.uuid4().hex}"


FACTORIES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "local": lambda request: local(request.getfixturevalue("tmp_path")),
    "hdfs": hdfs,
}
"""Each gives the URI of a folder that is not there yet."""
NEEDS_STACK = {"hdfs"}


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.stack] * (name in NEEDS_STACK)) for name in FACTORIES])
def base(request: pytest.FixtureRequest) -> str:
    return FACTORIES[request.param](request)


@pytest.fixture
def files(base: str) -> Files:
    return storage.files(base)


def test_bytes_come_back(files: Files, base: str, rng: object) -> None:
    for data in (b"", b"x", os.urandom(3_000_000)):
        uri = uris.join(base, "a/b", uuid.uuid4().hex)
        files.write(uri, data)
        assert files.read(uri) == data
        with files.open(uri) as file:
            assert file.read() == data
            file.seek(len(data) // 2)
            assert file.read(10) == data[len(data) // 2 :][:10]
        entry = files.stat(uri)
        assert (entry.uri, entry.length, entry.outside) == (uri, len(data), False)
        assert files.exists(uri)


@pytest.mark.parametrize("name", ["猫 a%20b.jpg", "x" * 200, "it's.q'", "a:b", "#?&=+"])
def test_names_are_taken_as_they_are(files: Files, base: str, name: str) -> None:
    uri = uris.join(base, name)
    if ":" in name and uris.scheme(base) == "hdfs":  # HDFS allows none in a name
        with pytest.raises(OSError, match="Invalid path name"):
            files.write(uri, b"x")
        return
    files.write(uri, b"x")
    assert files.names(base) == [name]
    assert [entry.uri for entry in files.walk(base)] == [uri]
    files.create(uris.join(base, "b", name), b"y")
    assert files.read(uris.join(base, "b", name)) == b"y"


def test_what_is_missing(files: Files, base: str) -> None:
    uri = uris.join(base, "nothing")
    for call in (files.read, files.open, files.stat):
        with pytest.raises(FileNotFoundError):
            call(uri)
    with pytest.raises(FileNotFoundError):
        list(files.walk(uri))
    assert not files.exists(uri)
    assert files.names(uri) == []
    files.delete(uri)


def test_a_change_shows_in_stat(files: Files, base: str) -> None:
    uri = uris.join(base, "a")
    files.write(uri, b"one")
    before = files.stat(uri)
    files.write(uri, b"three")
    after = files.stat(uri)
    assert after.length == 5
    assert after.mtime >= before.mtime > 1_600_000_000_000_000  # microseconds since 1970
    assert [entry.mtime for entry in files.walk(base)] == [after.mtime]


def test_names_and_walk_are_in_order(files: Files, base: str) -> None:
    paths = ["b/z.jpg", "b/a/1", "a.jpg", "B", "c/猫", "b/10", "b/9", "a/é"]
    for path in reversed(paths):
        files.write(uris.join(base, path), path.encode())
    assert files.names(base) == ["B", "a", "a.jpg", "b", "c"]
    walked = [entry.uri.removeprefix(f"{base}/") for entry in files.walk(base)]
    assert walked == ["B", "a/é", "a.jpg", "b/10", "b/9", "b/a/1", "b/z.jpg", "c/猫"]
    assert [entry.length for entry in files.walk(base)] == [len(path.encode()) for path in walked]


def test_walk_leaves_hidden_files_out(files: Files, base: str) -> None:
    for path in ("a", ".hidden", ".folder/b", "c/.hidden", "c/d"):
        files.write(uris.join(base, path), b"")
    assert [entry.uri for entry in files.walk(base)] == [uris.join(base, "a"), uris.join(base, "c/d")]


def test_write_replaces(files: Files, base: str) -> None:
    uri = uris.join(base, "a")
    files.write(uri, b"longer than the next")
    files.write(uri, b"short")
    assert files.read(uri) == b"short"
    assert files.names(base) == ["a"]  # no draft is left


def test_a_reader_sees_the_old_or_the_new_file(files: Files, base: str) -> None:
    uri = uris.join(base, "a")
    versions = [bytes([number]) * size for number, size in ((1, 2_000_000), (2, 1_000_000), (3, 10))]
    files.write(uri, versions[0])
    seen, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(files.read(uri))

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(60):
            files.write(uri, versions[number % 3])
        done.set()
        for reader in readers:
            reader.result()
    assert len(seen) > 10
    assert set(seen) <= set(versions)


def test_create_refuses_what_is_there(files: Files, base: str) -> None:
    uri = uris.join(base, "new/a")
    files.create(uri, b"first")
    with pytest.raises(FileExistsError):
        files.create(uri, b"second")
    assert files.read(uri) == b"first"
    assert files.names(uris.join(base, "new")) == ["a"]
    files.delete(uri)
    files.create(uri, b"third")
    assert files.read(uri) == b"third"


def test_of_two_that_create_at_once_one_wins(files: Files, base: str) -> None:
    barrier = threading.Barrier(4)

    def create(number: int, uri: str) -> bool:
        barrier.wait()
        try:
            files.create(uri, str(number).encode() * 10_000)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        for round_ in range(30):
            uri = uris.join(base, f"{round_}")
            won = list(pool.map(create, range(4), [uri] * 4))
            assert won.count(True) == 1
            assert files.read(uri) == str(won.index(True)).encode() * 10_000


CREATE = """
import sys
from likeness import storage as stores
uri, me = sys.argv[1:]
files = stores.files(uri)
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    try:
        files.create(f"{uri}/{number}", me.encode())
        print(number, flush=True)
    except FileExistsError:
        pass
"""


def test_of_two_processes_that_create_at_once_one_wins(files: Files, base: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, base, str(me)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for me in range(3)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    won = [list(map(int, process.communicate()[0].split())) for process in processes]
    assert sorted(number for numbers in won for number in numbers) == list(range(40))
    for me, numbers in enumerate(won):
        assert all(files.read(f"{base}/{number}") == str(me).encode() for number in numbers)


def test_upload(files: Files, base: str, tmp_path: Path) -> None:
    local_file = tmp_path / "local"
    local_file.write_bytes(b"content")
    uri = uris.join(base, "far/away")
    files.upload(str(local_file), uri)
    assert files.read(uri) == b"content"
    assert local_file.exists()
    local_file.write_bytes(b"changed")
    files.upload(str(local_file), uri)
    assert files.read(uri) == b"changed"
    assert files.names(uris.join(base, "far")) == ["away"]


def test_an_upload_of_what_is_missing_leaves_nothing(files: Files, base: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.upload(str(tmp_path / "nothing"), uris.join(base, "a"))
    assert files.names(base) == []


def test_delete(files: Files, base: str) -> None:
    for path in ("a/b/c", "a/d", "e"):
        files.write(uris.join(base, path), b"x")
    files.delete(uris.join(base, "e"))
    assert files.names(base) == ["a"]
    files.delete(uris.join(base, "a"))
    assert files.names(base) == []
    files.delete(uris.join(base, "a"))
    assert not files.exists(uris.join(base, "a/b/c"))


def test_two_that_delete_at_once(files: Files, base: str) -> None:
    for _ in range(5):
        for number in range(60):
            files.write(uris.join(base, f"a/{number % 7}/{number}"), b"")
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(files.delete, [uris.join(base, "a")] * 3))
        assert not files.exists(uris.join(base, "a"))


@pytest.fixture
def below_a_file(files: Files, base: str) -> Iterator[str]:
    """A place where nothing can be: its folder is a file. (A root user's chmod would not bite.)"""
    files.write(uris.join(base, "file"), b"x")
    return uris.join(base, "file", "a")


def test_an_unwritable_place_is_an_os_error(files: Files, base: str, below_a_file: str, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"x")
    for call in (files.write, files.create):
        with pytest.raises(OSError):
            call(below_a_file, b"x")
    with pytest.raises(OSError):
        files.upload(str(tmp_path / "local"), below_a_file)
    assert files.names(below_a_file) == []
    assert files.names(base) == ["file"]


def test_a_link_that_leaves_is_marked(tmp_path: Path) -> None:
    """Only local disks have links."""
    (tmp_path / "store").mkdir()
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "store" / "in").write_bytes(b"x")
    (tmp_path / "store" / "link").symlink_to("in")
    (tmp_path / "store" / "out").symlink_to("../other")
    listed = {
        entry.uri.rpartition("/")[2]: (entry.length, entry.outside)
        for entry in storage.files("/").walk(local(tmp_path))
    }
    assert listed == {"in": (1, False), "link": (1, False), "out": (5, True)}


def test_deleting_a_link_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("kept")
    storage.files("/").delete(f"file://{tmp_path}/link")
    assert (tmp_path / "kept" / "a").exists()
    assert not (tmp_path / "link").is_symlink()


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(UsageError, match=r"ftp://host/a: no file store for ftp://; known: file://"):
        storage.files("ftp://host/a")


@pytest.mark.slow
def test_a_namenode_that_is_down_is_said_within_half_a_minute() -> None:
    uri, begun = "hdfs://127.0.0.1:1/folder/file", time.monotonic()
    with pytest.raises(OSError, match=f"{uri}: HDFS does not answer; check that its NameNode is up"):
        storage.files(uri).write(uri, b"x")
    assert time.monotonic() - begun < 30
