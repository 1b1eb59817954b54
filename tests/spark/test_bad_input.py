"""Everything a catalogue of the real world holds: indexed right, or a row of the ledger with a reason."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness import storage
from likeness.index.builds import Builds
from likeness.models.backbones import resolve
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, IMAGES, LISTINGS

from .conftest import SAMPLE, run


def _bomb() -> bytes:
    """A PNG of a few bytes that says it is 30,000 x 30,000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _as(mode: str, kind: str, number: int, **options: object) -> bytes:
    photo = Image.open(sorted((SAMPLE / "shirt").iterdir())[number]).convert("RGB")
    if mode == "I;16":
        photo = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    elif mode == "gif":
        frames = [photo.rotate(angle).quantize(64) for angle in (0, 90)]
        file = io.BytesIO()
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
        return file.getvalue()
    else:
        photo = photo.convert(mode)
    file = io.BytesIO()
    photo.save(file, kind, **options)
    return file.getvalue()


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _as("RGB", "JPEG", 0, exif=exif)


GOOD = {
    "grey16.png": _as("I;16", "PNG", 0),
    "palette.png": _as("P", "PNG", 1),
    "cmyk.jpg": _as("CMYK", "JPEG", 2),
    "grey.jpg": _as("L", "JPEG", 3),
    "alpha.png": _as("RGBA", "PNG", 4),
    "rotated.jpg": _rotated(),
    "animated.gif": _as("gif", "GIF", 5),
    "photo.webp": _as("RGB", "WEBP", 6),
    "照片 é ü 'quoted' #1?.jpg": _as("RGB", "JPEG", 7),
    "x" * 240 + ".jpg": _as("RGB", "JPEG", 8),
}
BAD = {
    "empty.jpg": (b"", "ingest", "empty"),
    "text.jpg": (b"hello, I am text", "ingest", "not_an_image"),
    "bomb.png": (_bomb(), "ingest", "too_many_pixels"),
    "truncated.jpg": (_as("RGB", "JPEG", 9)[:4000], "extract", "undecodable"),
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    for name, category in (("帽子 & hats", GOOD), ("a.b.c", {name: data for name, (data, *_) in BAD.items()})):
        (folder / name).mkdir(parents=True)
        for file, data in category.items():
            (folder / name / file).write_bytes(data)
    return folder


def test_each_bad_photo_is_a_row_and_each_odd_one_is_indexed(configure, shop):
    settings = configure(shop, "gates.max_failure_rate=1")
    facts = run(settings)
    assert facts["ingest"]["listed"] == len(GOOD) + len(BAD)
    manifest = Builds(settings.root).find()
    assert manifest.categories() == {"帽子 & hats": len(GOOD)}
    ledger = {row["what"]: row for row in TableReader(settings).read(FAILURES).to_pylist()}
    for name, (_, stage, reason) in BAD.items():
        if stage == "ingest":
            row = ledger.pop(f"file://{shop}/a.b.c/{name}")
            assert (row["stage"], row["reason"]) == (stage, reason), name
            assert row["detail"]
    (row,) = ledger.values()
    assert (row["stage"], row["reason"]) == ("extract", "undecodable")
    formats = sorted(TableReader(settings).read(IMAGES)["format"].to_pylist())
    assert formats == sorted(["PNG"] * 3 + ["JPEG"] * 6 + ["GIF", "WEBP"])


def test_odd_catalogue_rows_and_categories(configure, shop):
    rows = [
        "product_id,image,category",
        "1,帽子 & hats/cmyk.jpg,../../etc",
        "1,帽子 & hats/cmyk.jpg,../../etc",
        "2,帽子 & hats/grey.jpg,鞋/夏. ",
        '3,帽子 & hats/alpha.png,"a, ""quoted"" one"',
        "4,../outside.jpg,hat",
        "5,/etc/passwd,hat",
        "6,file:///etc/passwd,hat",
        "7,nowhere.jpg,hat",
        "8,,hat",
        ",帽子 & hats/grey.jpg,hat",
        "3,帽子 & hats/alpha.png,another",
    ]
    (shop / "catalogue.csv").write_text("\n".join(rows), encoding="utf-8")
    settings = configure(shop, "gates.max_failure_rate=1")
    facts = run(settings)
    listed = {(r["product_id"], r["category"]) for r in TableReader(settings).read(LISTINGS).to_pylist()}
    assert listed == {("1", "../../etc"), ("2", "鞋/夏."), ("3", 'a, "quoted" one')}
    assert set(Builds(settings.root).find().categories()) == {category for _, category in listed}
    ledger = {row["what"].rpartition("#")[2]: row["reason"] for row in TableReader(settings).read(FAILURES).to_pylist()}
    assert ledger == {
        "5": "outside_source",
        "6": "outside_source",
        "7": "outside_source",
        "8": "missing_file",
        "9": "bad_row",
        "10": "bad_row",
        "11": "conflicting_row",
    } or ledger == {
        "4": "outside_source",
        "5": "outside_source",
        "6": "outside_source",
        "7": "missing_file",
        "8": "bad_row",
        "9": "bad_row",
        "11": "conflicting_row",
    }, ledger
    assert facts["ingest"]["rejected"] == 7
    assert all(Path(settings.root) in path.parents for path in Path(settings.root).rglob("*"))
    assert not (Path(settings.root).parent / "etc").exists()
    store = storage.keyed(storage.keyed_uri("", settings.root))
    assert len(dict(store.scan_vectors(resolve(settings.extract.space).id))) == 3
    store.close()


def test_a_tar_that_tries_to_leave_is_read_no_further_than_itself(configure, tmp_path):
    archive = tmp_path / "photos.tar"
    photo = sorted((SAMPLE / "hat").iterdir())[0]
    with tarfile.open(archive, "w") as tar:
        tar.add(photo, "hat/good.jpg")
        for name in ("../outside.jpg", "/etc/absolute.jpg"):
            info = tarfile.TarInfo(name)
            info.size = photo.stat().st_size
            with photo.open("rb") as file:
                tar.addfile(info, file)
        link = tarfile.TarInfo("hat/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    settings = configure(archive, "gates.max_failure_rate=1")
    facts = run(settings)
    assert (facts["ingest"]["new"], facts["ingest"]["rejected"]) == (1, 3)
    reasons = sorted(row["reason"] for row in TableReader(settings).read(FAILURES).to_pylist())
    assert reasons == ["not_a_file", "outside_source", "outside_source"]
