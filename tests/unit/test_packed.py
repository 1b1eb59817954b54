"""Packed sources: tar and Parquet, and the right bytes for every listed photo of every kind of source."""

import hashlib
import io
import random
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.catalog.sources import Listing, Reader, read_listing
from likeness.catalog.sources.packed import Skipped, members
from likeness.core.errors import UsageError
from likeness.core.settings import Limits, Source
from likeness.images.image import BadImage
from likeness.storage import FileEntry
from likeness.storage.files_local import LocalFiles


def listed(source: Path, **more: str) -> Listing:
    return read_listing(Source(uri=str(source), **more))


def photos(count: int, seed: int = 0) -> list[bytes]:
    random_ = random.Random(seed)
    return [random_.randbytes(random_.randint(1, 3000)) for _ in range(count)]


def tar(path: Path, content: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def parquet(path: Path, data: list[bytes | None], **columns: list[object]) -> Path:
    table = {
        "product_id": [f"p{number}" for number in range(len(data))],
        "category": [f"c{number % 3}" for number in range(len(data))],
        "bytes": pa.array(data, pa.binary()),
    }
    pq.write_table(pa.table({**table, **columns}), path, row_group_size=4)
    return path


def read_all(listing: Listing, order: list[int] | None = None) -> dict[str, str]:
    """uri to SHA-256 of the bytes, read one by one in an order."""
    rows, reader = listing.items.to_pylist(), Reader(Limits())
    digests = {}
    for number in order if order is not None else range(len(rows)):
        row = rows[number]
        data = reader.read(row["uri"], row["length"], row["container"], row["position"])
        digests[row["uri"]] = hashlib.sha256(data).hexdigest()
    reader.close()
    return digests


def sums(base: Path | str, content: dict[str, bytes]) -> dict[str, str]:
    return {f"file://{base}{name}": hashlib.sha256(data).hexdigest() for name, data in content.items()}


def reason(call: object, *args: object) -> str:
    with pytest.raises(BadImage) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.reason


# -- tar


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar(tmp_path: Path, kind: int) -> None:
    long = "長" * 60 + "/" + "x" * 120 + ".jpg"
    names = ["hat/a.jpg", "./046.coffee-mug/b.PNG", "c.webp", "a//./d.jpg", "裤子 2.0/e f.jpg", long]
    content = dict(zip(names, photos(len(names)), strict=True))
    source = tar(tmp_path / "s.tar", {**content, "hat/notes.txt": b"no photo"}, kind)
    listing = listed(source)
    plain = {name: name.replace("./046", "046").replace("//.", "") for name in names}
    assert {row["product_id"]: row["category"] for row in listing.items.to_pylist()} == {
        "hat/a.jpg": "hat",
        "046.coffee-mug/b.PNG": "coffee-mug",
        "c.webp": "uncategorised",
        "a/d.jpg": "a",
        "裤子 2.0/e f.jpg": "裤子 2.0",
        long: "長" * 60,
    }
    assert (listing.rejected, listing.ignored) == ([], 1)
    assert read_all(listing) == sums(f"{source}!/", {plain[name]: data for name, data in content.items()})


def test_tar_members_that_leave_it_or_are_no_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name in ("../up.jpg", "/absolute.jpg", "a/../../up.jpg", "good.jpg"):
            archive.addfile(tarfile.TarInfo(name))
        for name, kind in (
            ("soft.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("folder.jpg")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
    listing = listed(tmp_path / "s.tar")
    assert listing.items["product_id"].to_pylist() == ["good.jpg"]
    assert [bad.reason for _, bad in listing.rejected] == ["outside_source"] * 3 + ["not_a_file"] * 3
    assert all(what.startswith(f"file://{tmp_path}/s.tar!/") for what, _ in listing.rejected)


def test_a_sparse_member_is_not_read_as_if_it_were_whole(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(_sparse_tar())
    listing = listed(tmp_path / "s.tar")
    assert [bad.reason for _, bad in listing.rejected] == ["not_a_file"]


def _sparse_tar() -> bytes:
    """An old GNU sparse file: 3 bytes at 1000 of 1003."""
    member = tarfile.TarInfo("sparse.jpg")
    member.size = 3
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:410] = b"%011o\0%011o\0" % (1000, 3)
    header[483:495] = b"%011o\0" % 1003
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"abc".ljust(512, b"\0") + bytes(1024)


def test_a_name_twice_in_a_tar_is_the_later_one(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for data in (b"first", b"second"):
            member = tarfile.TarInfo("a.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    listing = listed(tmp_path / "s.tar")
    assert (listing.items.num_rows, listing.ignored) == (1, 1)
    assert list(read_all(listing).values()) == [hashlib.sha256(b"second").hexdigest()]


def test_a_tar_cut_anywhere_is_told(tmp_path: Path) -> None:
    content = {f"{number}.jpg": data for number, data in enumerate(photos(4))}
    whole = tar(tmp_path / "s.tar", content).read_bytes()
    end = sum(512 + -(-len(data) // 512) * 512 for data in content.values())
    reader = Reader(Limits())
    for cut in [*range(0, end + 1, 256), end - 1, end + 511]:
        (tmp_path / "s.tar").write_bytes(whole[:cut])
        listing = listed(tmp_path / "s.tar")
        assert [bad.reason for _, bad in listing.rejected] == ["broken_archive"], f"cut at {cut}"
        for row in listing.items.to_pylist():  # what comes before is read, the photo that is torn is not
            place = (row["uri"], row["length"], row["container"], row["position"])
            if row["position"] + row["length"] <= cut:
                assert reader.read(*place) == content[row["product_id"]]
            else:
                assert reason(reader.read, *place) == "unreadable"
        reader.close()
    (tmp_path / "s.tar").write_bytes(whole[: end + 512])
    assert listed(tmp_path / "s.tar").rejected == []


def test_a_tar_with_a_torn_header_is_told(tmp_path: Path) -> None:
    content = {f"{number}.jpg": bytes(1000) for number in range(5)}
    data = bytearray(tar(tmp_path / "s.tar", content).read_bytes())
    data[1536 * 2 : 1536 * 2 + 512] = random.Random(0).randbytes(512)
    (tmp_path / "s.tar").write_bytes(data)
    listing = listed(tmp_path / "s.tar")
    assert listing.items["product_id"].to_pylist() == ["0.jpg", "1.jpg"]
    assert [bad.reason for _, bad in listing.rejected] == ["broken_archive"]


@pytest.mark.parametrize("name", ["s.tar.gz", "s.tgz", "s.TAR.BZ2", "s.tar.xz", "s.tar.zst"])
def test_a_compressed_tar_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=r"unpack it to a plain \.tar"):
        listed(tmp_path / name)
    # beside other files it is a row, and the others go on
    (tmp_path / "a.jpg").write_bytes(b"x")
    listing = listed(tmp_path)
    assert listing.items["product_id"].to_pylist() == ["a.jpg"]
    assert [(what.rpartition("/")[2], bad.reason) for what, bad in listing.rejected] == [(name, "compressed")]


def test_a_compressed_tar_called_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    listing = listed(tmp_path / "s.tar")
    assert listing.items.num_rows == 0
    assert [bad.reason for _, bad in listing.rejected] == ["broken_archive"]


def test_a_folder_that_holds_tars(tmp_path: Path) -> None:
    one, two, three = photos(3)
    (tmp_path / "shoes!").mkdir()
    tar(tmp_path / "top.tar", {"hat/a.jpg": one})
    tar(tmp_path / "shoes!" / "more.tar", {"b.jpg": two})
    (tmp_path / "shoes!" / "c.jpg").write_bytes(three)
    listing = listed(tmp_path)
    assert {row["product_id"]: row["category"] for row in listing.items.to_pylist()} == {
        "top.tar!/hat/a.jpg": "hat",
        "shoes!/more.tar!/b.jpg": "shoes!",
        "shoes!/c.jpg": "shoes!",
    }
    expected = {"top.tar!/hat/a.jpg": one, "shoes!/more.tar!/b.jpg": two, "shoes!/c.jpg": three}
    assert read_all(listing) == sums(f"{tmp_path}/", expected)


def test_a_tar_with_a_catalogue(tmp_path: Path) -> None:
    tar(tmp_path / "s.tar", {"./hat/a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    text = "product_id,image,category\n1,hat/a.jpg,x\n2,./b.jpg,y\n3,../b.jpg,y\n"
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8")
    listing = listed(tmp_path / "s.tar", catalogue=str(tmp_path / "mine.csv"))
    rows = [(row["product_id"], row["uri"].partition("!/")[2], row["category"]) for row in listing.items.to_pylist()]
    assert rows == [("1", "hat/a.jpg", "x"), ("2", "b.jpg", "y")]
    assert [bad.reason for _, bad in listing.rejected] == ["outside_source"]
    assert listing.unlisted == 1


# -- Parquet with bytes


def test_parquet_in_several_row_groups(tmp_path: Path) -> None:
    data = photos(11)
    source = parquet(tmp_path / "s.parquet", data, brand=[None, *"bcdefghijk"], active=[True] * 10 + [False])
    assert pq.ParquetFile(source).num_row_groups == 3
    listing = listed(source)
    rows = listing.items.to_pylist()
    assert [row["product_id"] for row in rows] == [f"p{number}" for number in range(11)]
    assert [row["category"] for row in rows] == [f"c{number % 3}" for number in range(11)]
    assert [row["attributes"] for row in rows] == ["{}"] + [f'{{"brand": "{letter}"}}' for letter in "bcdefghijk"]
    assert [row["active"] for row in rows] == [True] * 10 + [False]
    expected = sums(f"{source}!/", {str(number): data for number, data in enumerate(data)})
    assert read_all(listing) == expected
    order = list(range(11))
    random.Random(1).shuffle(order)
    assert read_all(listing, order) == expected


def test_parquet_rows_that_cannot_be_used(tmp_path: Path) -> None:
    ids, names = [None, "", " ", "3", "4"], ["c", "c", "c", None, "c"]
    source = parquet(tmp_path / "s.parquet", photos(5), product_id=ids, category=names)
    listing = listed(source)
    assert listing.items["product_id"].to_pylist() == ["4"]
    assert [(what[-3:], bad.reason) for what, bad in listing.rejected] == [(f"!/{n}", "bad_row") for n in range(4)]


def test_parquet_without_bytes_in_a_row(tmp_path: Path) -> None:
    listing = listed(parquet(tmp_path / "s.parquet", [b"x", None, b"y"]))
    rows, reader = listing.items.to_pylist(), Reader(Limits())
    data = [reader.read(row["uri"], row["length"], row["container"], row["position"]) for row in rows]
    assert data == [b"x", b"", b"y"]  # which the decoder calls empty
    reader.close()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("name", ["bytes", "image"])
def test_parquet_columns_of_bytes(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    table = pa.table({"product_id": ["1"], "category": ["c"], name: pa.array([b"photo"], kind)})
    pq.write_table(table, tmp_path / "s.parquet")
    listing = listed(tmp_path / "s.parquet")
    assert list(read_all(listing).values()) == [hashlib.sha256(b"photo").hexdigest()]


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"product_id": ["1"], "category": ["c"]}),
        pa.table({"product_id": ["1"], "bytes": [b"x"]}),
        pa.table({"product_id": ["1"], "category": ["c"], "image": ["a.jpg"]}),
    ],
)
def test_parquet_of_another_kind(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "s.parquet")
    ((_, bad),) = listed(tmp_path / "s.parquet").rejected
    assert bad.reason == "broken_archive"
    assert "needs product_id, category" in bad.detail


def test_parquet_text_that_is_no_utf8(tmp_path: Path) -> None:
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")]
    )
    table = pa.table({"product_id": text, "category": ["c"], "bytes": [b"x"]})
    pq.write_table(table, tmp_path / "s.parquet")
    listing = listed(tmp_path / "s.parquet")
    assert (listing.items.num_rows, [bad.reason for _, bad in listing.rejected]) == (0, ["broken_archive"])


def test_a_folder_of_parquet_files_as_spark_writes_it(tmp_path: Path) -> None:
    source = tmp_path / "photos.parquet"
    source.mkdir()
    first, second = photos(3), photos(3, seed=1)
    parquet(source / "part-00000.snappy.parquet", first)
    parquet(source / "part-00001.snappy.parquet", second)
    (source / "_SUCCESS").touch()
    listing = listed(source)
    assert (listing.items.num_rows, listing.rejected, listing.ignored) == (6, [], 1)
    expected = {
        f"part-0000{part}.snappy.parquet!/{number}": data
        for part, rows in enumerate((first, second))
        for number, data in enumerate(rows)
    }
    assert read_all(listing) == sums(f"{source}/", expected)


# -- reading, whatever it is read from


def test_the_right_bytes_from_every_kind_in_any_order(tmp_path: Path) -> None:
    data = photos(24, seed=3)
    tar(tmp_path / "one.tar", {f"x/{number}.jpg": data[number] for number in range(8)})
    tar(tmp_path / "two.tar", {f"x/{number}.jpg": data[number] for number in range(8, 12)})
    parquet(tmp_path / "three.parquet", list(data[12:20]))
    for number in range(20, 24):
        (tmp_path / f"{number}.jpg").write_bytes(data[number])
    expected = sums(
        f"{tmp_path}/",
        {
            **{f"one.tar!/x/{number}.jpg": data[number] for number in range(8)},
            **{f"two.tar!/x/{number}.jpg": data[number] for number in range(8, 12)},
            **{f"three.parquet!/{number}": data[12 + number] for number in range(8)},
            **{f"{number}.jpg": data[number] for number in range(20, 24)},
        },
    )
    listing = listed(tmp_path)
    assert read_all(listing) == expected
    for seed in range(3):
        order = list(range(24))
        random.Random(seed).shuffle(order)
        assert read_all(listing, order) == expected


def test_a_container_that_is_gone_does_not_break_the_others(tmp_path: Path) -> None:
    here = parquet(tmp_path / "here.parquet", [b"x"])
    there = tar(tmp_path / "there.tar", {"a.jpg": b"photo"})
    rows = [*listed(here).items.to_pylist(), *listed(there).items.to_pylist()]
    places = [(row["uri"], row["length"], row["container"], row["position"]) for row in rows]
    reader = Reader(Limits())
    assert reader.read(*places[0]) == b"x"
    for gone in ("gone.tar", "gone.parquet"):
        assert reason(reader.read, f"file://{tmp_path}/{gone}!/0", 1, f"file://{tmp_path}/{gone}", 0) == "missing_file"
        assert reader.read(*places[0]) == b"x"
        assert reader.read(*places[1]) == b"photo"
    assert reason(reader.read, places[0][0], 1, places[0][2], 99) == "unreadable"
    reader.close()


def test_a_member_too_large_is_not_read(tmp_path: Path) -> None:
    (row,) = listed(tar(tmp_path / "s.tar", {"a.jpg": bytes(101)})).items.to_pylist()
    read = Reader(Limits(max_bytes=100)).read
    assert reason(read, row["uri"], row["length"], row["container"], row["position"]) == "too_large_bytes"


# -- broken archives never end a run


def whole(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in ("a.jpg", "猫" * 60 + ".png", "x" * 150 + ".jpg", "b.txt"):
                member = tarfile.TarInfo(name)
                member.size = 30
                archive.addfile(member, io.BytesIO(bytes(30)))
    else:
        columns = {"product_id": list("abcd"), "category": ["猫"] * 4, "bytes": pa.array([b"xy"] * 4, pa.binary())}
        pq.write_table(pa.table(columns), file, compression="none")
    return file.getvalue()


WHOLE = {"tar": whole("tar"), "parquet": whole("parquet")}


@given(
    st.sampled_from(sorted(WHOLE)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    st.floats(0.3, 1.5),
)
@settings(max_examples=300)
def test_random_corruption_is_at_most_a_row(kind: str, changes: list[tuple[float, int]], cut: float) -> None:
    data = bytearray(WHOLE[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    skipped = Skipped()
    with tempfile.NamedTemporaryFile(suffix=f".{kind}") as file:
        file.write(data[: int(len(data) * min(cut, 1))])
        file.flush()
        photos = list(members(LocalFiles(), FileEntry(f"file://{file.name}", len(data), 0), skipped))
    assert len(photos) <= 4
    assert all(isinstance(bad, BadImage) for _, bad in skipped.rejected)
    for photo in photos:
        assert np.iinfo(np.int64).min <= photo.length <= np.iinfo(np.int64).max
        photo.uri.encode()
