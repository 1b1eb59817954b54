"""The search methods of the Python API: one behaviour, in this process by `Library` and over HTTP by `Client`."""

import doctest
import json
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import likeness
from likeness import Client, Library
from likeness.cli.app import app as typer_app
from likeness.core.errors import LikenessError, ServiceError, SpaceMismatch, UsageError
from likeness.core.settings import Settings
from likeness.serving import library as library_module
from likeness.serving import search_api
from likeness.serving.responses import Answer
from likeness.serving.search_params import SearchOptions, SearchParams


@pytest.fixture(scope="module")
def library(published: Settings) -> Iterator[Library]:
    with likeness.open(published.root, extract__cache=published.extract.cache) as opened:
        yield opened


@pytest.fixture(scope="module", params=["library", "client"])
def api(request: pytest.FixtureRequest, library: Library, address: str) -> Iterator[Library | Client]:
    if request.param == "library":
        yield library
    else:
        with Client(address) as client:
            yield client


@pytest.fixture(scope="module")
def hat(sample: Path) -> Path:
    return min((sample / "hat").iterdir())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as photo:
        return np.asarray(photo.convert("RGB"))


def images(answer: Answer) -> list[str]:
    return [result.image_id for result in answer.results]


def test_a_photo_as_path_bytes_or_pixels(api: Library | Client, hat: Path) -> None:
    answers = [api.search(one, k=5, category="all") for one in (hat, str(hat), hat.read_bytes(), pixels(hat))]
    for answer in answers:
        assert images(answer) == images(answers[0])
        assert len(answer.results) == 5
        assert answer.results[0].score == pytest.approx(1, abs=1e-3)
        assert {(one.space, one.build, one.region) for one in answer.results} == {(answer.space, answer.build, "")}
    assert answers[0].category.predicted == "hat"


def test_the_same_parameters(api: Library | Client, hat: Path) -> None:
    whole = api.search(hat, k=20, category="all")
    assert images(api.search(hat, k=10, offset=10, category="all")) == images(whole)[10:]
    least = (whole.results[4].score + whole.results[5].score) / 2
    assert images(api.search(hat, k=20, category="all", min_score=least)) == images(whole)[:5]
    red = api.search(hat, category="all", where=["colour=red"])
    assert {one.attributes["colour"] for one in red.results} == {"red"}
    assert images(api.search(hat, category="all", where="colour=red")) == images(red)
    assert images(api.search(hat, k=20, category="all", near_duplicate=float("inf"))) == images(whole)
    assert len(api.search(hat, k=20, category="all", near_duplicate=0.5, distinct=True).results) <= 20
    assert images(api.search(hat, box=(0, 0, 0.5, 0.5), category="all")) != images(whole)[:10]
    assert api.search(hat, looks=["turned"], category="all").results[0].image_id == images(whole)[0]
    assert api.search(hat, hat, combine="mean", k=1, category="all").results[0].image_id == images(whole)[0]
    assert api.search(hat, build=whole.build, space=whole.space).build == whole.build


def test_vectors(api: Library | Client, library: Library, hat: Path) -> None:
    space, features = library.build.space, library.vectors()
    row = features.vectors[3]
    for vectors in (row, row[None], row.astype(np.float64)):
        assert images(api.search(vectors, space=space, k=1, category="all")) == [features.image_ids[3]]
    both = api.search(features.vectors[:2], space=space, k=2, category="all")
    assert set(images(both)) == set(features.image_ids[:2])
    batch = api.batch(features.vectors[:3], space=space, k=1, category="all")
    assert [images(answer)[0] for answer in batch] == list(features.image_ids[:3])


def test_a_similar_product(api: Library | Client, hat: Path) -> None:
    product = api.search(hat, k=1).results[0].product_id
    answer = api.similar(product, k=3)
    assert product not in [one.product_id for one in answer.results]
    assert answer.category.searched == ("hat",)
    with pytest.raises(UsageError, match="nothing"):
        api.similar("nothing")


@pytest.mark.parametrize(
    ("photo", "options", "error"),
    [
        (np.zeros((4, 4), np.uint8), {}, r"uint8 \(4, 4\).*uint8 \(h, w, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), {}, r"uint8 \(h, w, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), {}, r"uint8 \(h, w, 3\)"),
        (np.zeros((4, 4, 3), np.int64), {}, "int64"),
        (np.zeros(4, np.float32), {}, "space="),
        (np.zeros((1, 2, 3), np.float32), {"space": "s@1"}, r"\(1, 2, 3\)"),
        (np.zeros((0, 4), np.float32), {"space": "s@1"}, r"\(0, 4\)"),
        (np.full(4, np.nan), {"space": "s@1"}, "NaN"),
        (np.zeros(4, np.float32), {"space": "s@1", "looks": ["turned"]}, "without box and looks"),
        (["hat.jpg"], {}, "type list"),
        ("none.jpg", {}, "none.jpg: No such file"),
        (b"not a photo", {}, "not_an_image"),
        (b"", {}, "empty"),
        (None, {"k": 0}, "k is 0"),
        (None, {"k": "3"}, "k is '3'"),
        (None, {"offset": -1}, "offset is -1"),
        (None, {"box": (0, 1)}, "left, top, right, bottom"),
        (None, {"box": (0.5, 0, 0.5, 1)}, "box"),
        (None, {"combine": "sum"}, "best, mean"),
        (None, {"looks": ["askew"]}, "askew"),
        (None, {"looks": "turned"}, "list"),
        (None, {"where": [3]}, "name=value"),
        (None, {"where": ["colour"]}, "name=value"),
        (None, {"category": "no such"}, "no such.*there are"),
        (None, {"build": "no such"}, "no such"),
        (None, {"space": "alexnet.fc6"}, "alexnet.fc6.*in service: efficientnet_lite0"),
    ],
)
def test_what_cannot_be_used_is_refused(
    api: Library | Client, hat: Path, photo: Any, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(UsageError, match=error):
        api.search(hat if photo is None else photo, **options)


def test_no_photo_and_no_such_parameter_are_refused(api: Library | Client, hat: Path) -> None:
    with pytest.raises(UsageError, match="no photo"):
        api.search()
    with pytest.raises(TypeError, match="categroy"):
        api.search(hat, categroy="hat")  # type: ignore[call-arg]


def test_vectors_of_another_space_are_refused(api: Library | Client, library: Library) -> None:
    for vectors, space in ((np.ones(4), library.build.space), (np.ones(1280), "alexnet.fc6@00000000")):
        with pytest.raises(SpaceMismatch):
            api.search(vectors, space=space)


def test_vectors_that_nothing_is_near_to_are_refused(api: Library | Client, library: Library) -> None:
    dim, space, row = library.build.dim, library.build.space, library.vectors().vectors[0]
    zero = np.zeros(dim, np.float32)
    for vectors, said in (
        (zero, "the vector of the query is 0, which has no direction"),
        (np.stack([row, zero]), "vector 2 of 2 of the query is 0"),
        (np.full(dim, 1e300), "vector 1 of 1 holds 1e\\+300"),
    ):
        with pytest.raises(UsageError, match=said):
            api.search(vectors, space=space)
        with pytest.raises(UsageError, match=said):
            api.batch(vectors, space=space)
    with pytest.raises(UsageError, match="is 0, which has no direction"):
        api.search(np.stack([row, -row]), space=space, combine="mean")
    expected = images(api.search(row, space=space, category="all"))
    for scale in (1e-30, 1e37):
        assert images(api.search(row.astype(np.float64) * scale, space=space, category="all")) == expected


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"where": ["Colour=red"]}, "'Colour'; did you mean 'colour'?"),
        ({"where": ["size=9"]}, "'size'; there are: colour"),
        ({"where": ["colour=Red"]}, "did you mean 'red'?"),
        ({"min_score": 2}, "the best score is 1.0000"),
        ({"offset": 900}, "offset 900 is past the last of 163 results"),
    ],
)
def test_an_empty_answer_says_why(api: Library | Client, hat: Path, options: SearchOptions, hint: str) -> None:
    answer = api.search(hat, category="all", **options)
    assert not answer.results
    assert hint in " ".join(answer.hints)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"where": ["price>10"]}, "there is no operator but ="),
        ({"where": ["colour==red"]}, "there is no operator but ="),
        ({"category": "Hat"}, "did you mean 'hat'?"),
        ({"min_coverage": 2}, "min_coverage is 2"),
        ({"min_score": float("nan")}, "min_score is nan"),
        ({"near_duplicate": -1}, "near_duplicate is -1"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused(
    api: Library | Client, hat: Path, options: SearchOptions, error: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(error)):
        api.search(hat, **options)


def test_the_photo_that_cannot_be_used_is_named(api: Library | Client, hat: Path) -> None:
    with pytest.raises(UsageError, match="photo 2 of 2: not_an_image"):
        api.search(hat, b"not a photo")


def test_an_answer_shows_as_a_table(api: Library | Client, hat: Path) -> None:
    answer = api.search(hat, k=4, category="all")
    page = answer._repr_html_()
    assert page.count("<tr>") == 5
    assert page.count('src="data:image/jpeg;base64,') == 4
    for result in answer.results:
        assert result.product_id in page
    result = answer.results[0].model_copy(update={"product_id": "<script>", "attributes": {"a": "<b>"}})
    page = answer.model_copy(update={"results": (result,)})._repr_html_()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "<b>" not in page


def test_library_client_and_command_answer_fifty_queries_alike(
    library: Library,
    address: str,
    published: Settings,
    sample: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command takes the library that is open, which spares it the loading of a network for each query."""
    monkeypatch.setattr(library_module, "Library", lambda settings: nullcontext(library))
    photos = sorted(sample.rglob("*.jpg"))[:150:3]
    options: list[SearchOptions] = [
        {},
        {"category": "all"},
        {"k": 25, "where": ["colour=red"]},
        {"category": "hat", "space": library.build.space},
        {"build": library.build.build, "where": ["colour=red", "colour=green"]},
    ]
    assert len(photos) == 50
    with Client(address) as client:
        for number, photo in enumerate(photos):
            chosen = options[number % len(options)]
            expected = comparable(library.search(photo, **chosen))
            served = client.search(photo, **chosen)
            assert comparable(served) == expected
            assert {one.uri for one in served.results} == {""}
            flags = [f"--{name}={value}" for name, values in chosen.items() for value in np.atleast_1d(values)]
            flags += ["--root", published.root, "--set", f"extract.cache={published.extract.cache}", "--json"]
            typer_app(["search", str(photo), *flags], standalone_mode=False)
            printed = Answer.model_validate_json(capsys.readouterr().out)
            assert comparable(printed) == expected
            assert all(one.uri.startswith("file:///") for one in printed.results)


def comparable(answer: Answer) -> dict[str, Any]:
    """All but times and where photos are: only a service has `url`, and only keys with a right get `uri` from it."""
    return answer.model_dump(exclude={"took_ms": True, "results": {"__all__": {"url", "uri"}}})


def test_the_command_takes_what_a_search_takes(
    library: Library,
    published: Settings,
    sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library_module, "Library", lambda settings: nullcontext(library))
    photos = [min((sample / name).iterdir()) for name in ("hat", "shoes")]
    product, flags = library.search(photos[0]).results[0].product_id, ["--root", published.root]

    def printed(*words: str) -> str:
        typer_app(["search", *words, *flags], standalone_mode=False)
        return capsys.readouterr().out

    both = list(map(str, photos))
    for words, expected in (
        (["--product", product, "--distinct"], library.similar(product, distinct=True)),
        ([both[0], "--box", "0,0,0.5,0.5"], library.search(photos[0], box=(0, 0, 0.5, 0.5))),
        ([both[0], "--offset", "3", "-k", "4"], library.search(photos[0], offset=3, k=4)),
        ([*both, "--combine", "mean"], library.search(*photos, combine="mean")),
        ([*both, "--min-score", "0.5"], library.search(*photos, min_score=0.5)),
        ([both[0], "--near-duplicate", "0.7"], library.search(photos[0], near_duplicate=0.7)),
        ([both[0], "--look", "sharp"], library.search(photos[0], looks=["sharp"])),
        ([both[0], "--where", "Colour=red"], library.search(photos[0], where=["Colour=red"])),
    ):
        assert comparable(Answer.model_validate_json(printed(*words, "--json"))) == comparable(expected)
    said = printed(both[0], "--where", "Colour=red")
    assert "no results" in said
    assert re.search(r"hint: where: none of the \d+ products .*did you mean 'colour'\?", said)
    for number, words in enumerate((["--product", product], both)):
        printed(*words, "--save", str(tmp_path / f"{number}.png"))
        assert (tmp_path / f"{number}.png").read_bytes()[:4] == b"\x89PNG"
    for words, error in (
        ([both[0], "--box", "0,1"], "left, top, right, bottom"),
        ([*both, "--combine", "sum"], "best, mean"),
    ):
        with pytest.raises(UsageError, match=error):
            printed(*words)


def test_a_command_times_its_steps(published: Settings, hat: Path) -> None:
    flags = ["--root", published.root, "--set", f"extract.cache={published.extract.cache}", "--json"]
    command = [sys.executable, "-m", "likeness.cli", "search", str(hat), *flags]
    printed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert printed["took_ms"].keys() == {"load", "encode", "search", "facts"}


def test_tables_builds_and_models_are_local(library: Library) -> None:
    from likeness.storage.tables import IMAGES

    assert library.tables.read(IMAGES, ("image_id",)).num_rows == library.build.images
    assert library.models.names() == []
    features = library.vectors(library.build.space)
    assert features.vectors.shape == (163, library.build.dim)
    with pytest.raises(UsageError, match="no vector"):
        library.vectors("hog.cells")


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.*does not exist"):
        likeness.open(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="colour: unknown key"):
        likeness.open(tmp_path, colour="red")
    with likeness.open(tmp_path) as empty, pytest.raises(LikenessError, match="published yet"):
        empty.search(np.zeros((8, 8, 3), np.uint8))


def test_a_service_that_is_not_there_is_named(hat: Path) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:1"):
        client.search(hat)


def test_options_are_the_search_parameters() -> None:
    hints = typing.get_type_hints(SearchParams)
    assert typing.get_type_hints(SearchOptions) == hints
    assert list(hints) == [field.name for field in fields(SearchParams)]


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, likeness; print(*{'numpy', 'pydantic', 'faiss', 'pyarrow', 'httpx2'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize("module", [likeness, library_module, search_api], ids=lambda module: module.__name__)
def test_the_examples_of_docstrings_run(
    module: Any, published: Settings, hat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(hat, tmp_path / "hat.jpg")
    (tmp_path / "var").symlink_to(published.root)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIKENESS_EXTRACT__CACHE", published.extract.cache)
    result = doctest.testmod(module, extraglobs={"likeness": likeness})
    assert result.attempted >= 2
    assert result.failed == 0
