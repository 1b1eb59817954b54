"""URIs: one spelling a place, and what a catalogue may name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.core import uris


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("/a/b", "file:///a/b"),
        ("/a/b//", "file:///a/b"),
        ("file:/a/b/", "file:///a/b"),
        ("file:///a/b", "file:///a/b"),
        ("/a b%20c/猫", "file:///a b%20c/猫"),
        ("hdfs://name:8020/a/", "hdfs://name:8020/a"),
        ("/", "file:///"),
        ("/a/../b", "file:///b"),
    ],
)
def test_canonical(text: str, uri: str) -> None:
    assert uris.canonical(text) == uri
    assert uris.canonical(uri) == uri


def test_one_folder_is_one_uri_from_wherever_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    from_here = uris.canonical("data")
    monkeypatch.chdir(tmp_path / "work")
    assert uris.canonical("../data") == uris.canonical("./../data/") == from_here == f"file://{tmp_path}/data"


def test_local_path() -> None:
    assert uris.local_path("file:///a b/猫") == Path("/a b/猫")
    with pytest.raises(ValueError, match="hdfs"):
        uris.local_path("hdfs://name/a")


def test_scheme() -> None:
    assert [uris.scheme(uri) for uri in ("HDFS://x", "/a", "file:/a", "sqlite:///x")] == [
        "hdfs",
        "file",
        "file",
        "sqlite",
    ]


def test_join() -> None:
    assert uris.join("hdfs://name/a/", "b", "/c/") == "hdfs://name/a/b/c"


OUTSIDE = (
    "",
    "..",
    "../x.jpg",
    "a/../../x.jpg",
    "a/..",
    "/etc/passwd",
    "//host/x",
    "\\\\host\\x",
    "\\x",
    "..\\x.jpg",
    "a\\..\\..\\x.jpg",
    "C:\\x.jpg",
    "c:/x.jpg",
    "file:/x.jpg",
    "file:///x.jpg",
    "FILE:///x.jpg",
    "http://x/y.jpg",
    "hdfs://x/y.jpg",
    "a\0.jpg",
)
INSIDE = (
    "a.jpg",
    "./a.jpg",
    "a/b/c.jpg",
    "a..b/..c/d...jpg",
    "...",
    "猫/a b%2e.jpg",
    "IMG:12.jpg",
    "a:b/c.jpg",
    "~/x",
    "a\\b.jpg",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_what_leaves_the_source(path: str) -> None:
    assert not uris.is_inside(path)


@pytest.mark.parametrize("path", INSIDE)
def test_what_stays_inside(path: str) -> None:
    assert uris.is_inside(path)


@given(
    st.lists(st.sampled_from(["..", ".", "", "a", "a..", "\\", "..\\", "x:", "file:", "c"]), max_size=6).map("/".join)
)
def test_what_stays_inside_does_so_on_a_real_disk(path: str) -> None:
    if uris.is_inside(path):
        there = Path("/top/source", path.replace("\\", "/"))
        assert not path.startswith("/")
        assert Path("/top/source") in [(resolved := there.resolve()), *resolved.parents]


@pytest.mark.parametrize(
    ("path", "plain"),
    [("a/././b", "a/b"), ("./a//b", "a/b"), ("././a.jpg", "a.jpg"), ("a/b", "a/b"), (".a/..b", ".a/..b")],
)
def test_plain(path: str, plain: str) -> None:
    assert uris.normalize(path) == plain
