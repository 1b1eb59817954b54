"""Folders of photos: what is listed, what is rejected, and that every file is accounted for."""

import os
import random
import string
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from likeness.catalog.sources import ITEM, Listing, Reader, read_listing
from likeness.core.errors import UsageError
from likeness.core.settings import Limits, Source
from likeness.images.image import BadImage


def put(folder: Path, *names: str, data: bytes = b"photo") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def listed(folder: Path | str, **more: str) -> Listing:
    return read_listing(Source(uri=str(folder), **more))


def categories(listing: Listing) -> dict[str, str]:
    return {row["product_id"]: row["category"] for row in listing.items.to_pylist()}


def reasons(listing: Listing) -> dict[str, str]:
    return {what.rpartition("/")[2]: bad.reason for what, bad in listing.rejected}


def test_the_parent_folder_is_the_category(tmp_path: Path) -> None:
    put(tmp_path, "hat/a.jpg", "shoes/left/b.JPEG", "c.png", "046.coffee-mug/d.webp", "12.x/e.gif", "007./f.bmp")
    assert categories(listed(tmp_path)) == {
        "hat/a.jpg": "hat",
        "shoes/left/b.JPEG": "left",
        "c.png": "uncategorised",
        "046.coffee-mug/d.webp": "coffee-mug",
        "12.x/e.gif": "12.x",
        "007./f.bmp": "007.",
    }


def test_names_are_data(tmp_path: Path) -> None:
    names = [
        "裤子 2.0/猫.jpg",
        "a b/c d%20.jpg",
        "sale!/x.jpg",
        "it's/q'.jpg",
        "x.../y..jpg",
        "長" * 80 + "/" + "名" * 80 + ".jpg",
    ]
    put(tmp_path, *names)
    listing = listed(tmp_path)
    assert categories(listing) == {name: name.partition("/")[0] for name in names}
    reader = Reader(Limits())
    for row in listing.items.to_pylist():
        assert row["uri"] == f"file://{tmp_path}/{row['product_id']}"
        assert reader.read(row["uri"], row["length"], row["container"], row["position"]) == b"photo"


def test_a_row_has_the_files_own_facts(tmp_path: Path) -> None:
    put(tmp_path, "hat/a.jpg", data=b"12345")
    os.utime(tmp_path / "hat/a.jpg", ns=(0, 1_600_000_000_123_456_000))
    listing = listed(tmp_path)
    assert listing.items.schema == ITEM
    (row,) = listing.items.to_pylist()
    assert row == {
        "product_id": "hat/a.jpg",
        "uri": f"file://{tmp_path}/hat/a.jpg",
        "category": "hat",
        "attributes": "{}",
        "active": True,
        "length": 5,
        "mtime": 1_600_000_000_123_456,
        "container": "",
        "position": 0,
    }


def test_what_is_no_photo_is_counted_and_what_is_hidden_is_not_seen(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.jpg",
        "notes.txt",
        "hat/README",
        "jpg",
        "x.jpg.bak",
        ".hidden.jpg",
        ".git/b.jpg",
        "_temporary/c.jpg",
    )
    listing = listed(tmp_path)
    assert list(categories(listing)) == ["a.jpg"]
    assert (listing.ignored, listing.rejected, listing.unlisted) == (4, [], 0)


def test_a_folder_called_like_a_photo(tmp_path: Path) -> None:
    put(tmp_path, "x.jpg/y.jpg", "z.tar/a.png")
    (tmp_path / "empty.jpg").mkdir()
    assert categories(listed(tmp_path)) == {"x.jpg/y.jpg": "x.jpg", "z.tar/a.png": "z.tar"}


def test_an_empty_folder_lists_nothing(tmp_path: Path) -> None:
    listing = listed(tmp_path)
    assert listing.items.schema == ITEM
    assert (listing.items.num_rows, listing.rejected, listing.ignored) == (0, [], 0)


def test_links(tmp_path: Path) -> None:
    source, outside = tmp_path / "source", tmp_path / "source-but-not-it"
    put(source, "hat/a.jpg", "notes.txt")
    put(outside, "secret.jpg", "secret.txt")
    with tarfile.open(outside / "out.tar", "w") as tar:
        tar.add(outside / "secret.jpg", "secret.jpg")
    (source / "inside.jpg").symlink_to(source / "hat" / "a.jpg")
    (source / "relative.jpg").symlink_to("hat/a.jpg")
    (source / "leaving.jpg").symlink_to(outside / "secret.jpg")
    (source / "up.jpg").symlink_to("../source-but-not-it/secret.jpg")
    (source / "leaving.tar").symlink_to(outside / "out.tar")
    (source / "leaving.txt").symlink_to(outside / "secret.txt")
    (source / "folder").symlink_to(outside)
    listing = listed(source)
    assert sorted(categories(listing)) == ["hat/a.jpg", "inside.jpg", "relative.jpg"]
    assert reasons(listing) == dict.fromkeys(("leaving.jpg", "up.jpg", "leaving.tar"), "outside_source")
    assert listing.ignored == 2
    row = next(row for row in listing.items.to_pylist() if row["product_id"] == "inside.jpg")
    assert row["length"] == 5


@pytest.mark.parametrize("target", ["nowhere.jpg", "loop.jpg"])
def test_a_link_to_nowhere_is_missing_when_it_is_read(tmp_path: Path, target: str) -> None:
    put(tmp_path, "a.jpg")
    (tmp_path / "loop.jpg").symlink_to(target)
    listing = listed(tmp_path)
    (row,) = (row for row in listing.items.to_pylist() if row["product_id"] == "loop.jpg")
    with pytest.raises(BadImage) as caught:
        Reader(Limits()).read(row["uri"], row["length"], row["container"], row["position"])
    assert caught.value.reason in ("missing_file", "unreadable")


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    assert list(categories(listed(tmp_path))) == ["a.jpg"]


def test_a_source_that_is_a_link(tmp_path: Path) -> None:
    put(tmp_path / "real", "hat/a.jpg")
    (tmp_path / "real" / "b.jpg").symlink_to("hat/a.jpg")
    (tmp_path / "link").symlink_to("real")
    listing = listed(tmp_path / "link")
    assert sorted(categories(listing)) == ["b.jpg", "hat/a.jpg"]
    assert listing.rejected == []


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    for name in (b"caf\xe9.jpg", b"caf\xe9.txt", b"caf\xe9.tar"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"photo")
    listing = listed(tmp_path)
    assert list(categories(listing)) == ["a.jpg"]
    assert sorted(what for what, _ in listing.rejected) == [
        f"file://{tmp_path}/caf\\udce9.{end}" for end in ("jpg", "tar")
    ]
    assert {bad.reason for _, bad in listing.rejected} == {"name_not_utf8"}
    assert listing.ignored == 1


@pytest.mark.parametrize("name", ["nowhere", "nowhere.tar", "nowhere.parquet"])
def test_a_source_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: no such file or folder"):
        listed(tmp_path / name)


def test_a_source_that_is_one_photo(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    with pytest.raises(UsageError, match="cannot be listed"):
        listed(tmp_path / "a.jpg")


def test_a_source_of_an_unknown_scheme() -> None:
    with pytest.raises(UsageError, match="ftp://"):
        listed("ftp://host/photos")


UNREADABLE = """
import ctypes, sys
from likeness.core.errors import UsageError
from likeness.images.image import BadImage
from likeness.core.settings import Limits, Source
from likeness.catalog.sources import Reader, read_listing
# root may read everything, unless it gives its capabilities up
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
try:
    print(read_listing(Source(uri=sys.argv[1])).items.num_rows)
except UsageError as error:
    print("refused:", error)
try:
    Reader(Limits()).read(f"file://{sys.argv[2]}", 5, "", 0)
except BadImage as bad:
    print(bad.reason)
"""


def test_what_may_not_be_read(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "hat/b.jpg", "shut.jpg")
    (tmp_path / "shut.jpg").chmod(0)
    (tmp_path / "hat").chmod(0)
    try:
        output = subprocess.run(
            [sys.executable, "-c", UNREADABLE, tmp_path, tmp_path / "shut.jpg"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    finally:
        (tmp_path / "hat").chmod(0o755)
    # a part that cannot be listed must not look as if its products were withdrawn
    assert output[0].startswith("refused: ")
    assert f"{tmp_path}/hat" in output[0]
    assert output[1] == "unreadable"


def test_a_file_that_fails_while_it_is_read() -> None:
    with pytest.raises(BadImage) as caught:
        Reader(Limits()).read("file:///proc/self/mem", 1, "", 0)
    assert caught.value.reason == "unreadable"


def test_a_file_that_is_gone_since_it_was_listed(tmp_path: Path) -> None:
    with pytest.raises(BadImage) as caught:
        Reader(Limits()).read(f"file://{tmp_path}/a.jpg", 5, "", 0)
    assert caught.value.reason == "missing_file"


def test_a_file_that_grew_is_not_read_beyond_the_limit(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", data=bytes(1000))
    assert len(Reader(Limits(max_bytes=100)).read(f"file://{tmp_path}/a.jpg", 5, "", 0)) == 101  # too many to pass


def test_a_file_too_large_is_not_opened() -> None:
    with pytest.raises(BadImage) as caught:
        Reader(Limits(max_bytes=100)).read("file:///nowhere/a.jpg", 101, "", 0)
    assert caught.value.reason == "too_large_bytes"


def test_listing_a_tree_from_which_files_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *(f"{folder}/{number}.jpg" for folder in "abc" for number in range(3)))
    gone = iter([tmp_path / "a" / "1.jpg", *sorted((tmp_path / "b").iterdir()), tmp_path / "b"])

    from likeness.storage import files_local

    linked = files_local._regular

    def regular(*args: object) -> object:  # deletes behind the walk's back, between the reading of a folder and a file
        for path in gone:
            path.rmdir() if path.is_dir() else path.unlink()
        return linked(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(files_local, "_regular", regular)
    assert sorted(categories(listed(tmp_path))) == ["a/0.jpg", "a/2.jpg", "c/0.jpg", "c/1.jpg", "c/2.jpg"]


ENDS = (".jpg", ".JPG", ".png", ".txt", "", ".jpg.txt", ".tgz", ".webp")


@pytest.mark.parametrize("seed", range(8))
def test_every_file_of_a_random_tree_is_accounted_for(tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    tree, outside = tmp_path / "tree", tmp_path / "outside.jpg"
    outside.write_bytes(b"x")
    folders, files = [tree], 0
    tree.mkdir()
    for number in range(random_.randint(20, 60)):
        folder = random_.choice(folders)
        name = "".join(random_.choices(string.ascii_letters + "猫 .!%'", k=random_.randint(1, 12))).strip(". ") or "n"
        path = folder / f"{number}{name}{random_.choice(ENDS)}"
        kind = random_.random()
        if kind < 0.15:
            path.mkdir()
            folders.append(path)
        elif kind < 0.25:
            path.symlink_to(random_.choice([outside, "nowhere", path.name]))
            files += 1
        elif kind < 0.32:
            files += _packed(path, random_)
        else:
            path.write_bytes(b"photo")
            files += 1
    listing = listed(tree)
    assert listing.items.num_rows + len(listing.rejected) + listing.ignored == files
    uris = listing.items["uri"].to_pylist()
    assert len(set(uris)) == len(uris)
    assert not any("outside" in uri for uri in uris)


def _packed(path: Path, random_: random.Random) -> int:
    """A tar or a Parquet file of a few members, or a broken one; and how many rejections it causes."""
    members = random_.randint(0, 4)
    if random_.random() < 0.3:
        path.with_suffix(".tar").write_bytes(b"no tar at all")
        return 1
    if random_.random() < 0.5:
        with tarfile.open(path.with_suffix(".tar"), "w") as tar:
            for number in range(members):
                tar.addfile(tarfile.TarInfo(random_.choice(["", "../", "/"]) + f"{number}{random_.choice(ENDS)}"))
        return members
    rows = {
        "product_id": [random_.choice(["p", "", None]) for _ in range(members)],
        "category": ["c"] * members,
        "bytes": pa.array([b"photo"] * members, pa.binary()),
    }
    pq.write_table(
        pa.table(rows, pa.schema([("product_id", pa.string()), ("category", pa.string()), ("bytes", pa.binary())])),
        path.with_suffix(".parquet"),
    )
    return members
