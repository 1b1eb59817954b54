"""The client, and the commands of the documentation, against a service that listens."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likeness import Client
from likeness.core.errors import ServiceError, UsageError
from likeness.images.query_views import QueryView
from likeness.serving.client import ProblemError
from likeness.serving.http.error_responses import CODES
from likeness.serving.query_terms import PhotoTerm, ProductTerm, Term, VectorTerm
from likeness.serving.responses import Answer
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def timeless(answer: Answer) -> dict[str, Any]:
    """The fields that do not depend on the clock, without `uri`, to which callers over HTTP need a right."""
    return answer.model_dump(exclude={"took_ms": True, "results": {"__all__": {"uri"}}})


def test_the_client_gets_the_answers_of_the_service(address: str, service: Service, sample: Path) -> None:
    photos = [min((sample / name).iterdir()) for name in ("hat", "shoes")]
    first, second = (path.read_bytes() for path in photos)
    manifest = service.builds.loaded().manifest

    def expected(term: Term, **params: Any) -> dict[str, Any]:
        return timeless(service.search(term, SearchParams(**params)))

    with Client(address) as shop:
        catalogue = shop.catalogue(5)
        assert (catalogue.images, len(catalogue.some)) == (163, 5)
        for path in photos:
            for answer in (shop.search(path, k=3), shop.search(str(path), k=3), shop.search(path.read_bytes(), k=3)):
                assert timeless(answer) == expected(PhotoTerm([path.read_bytes()]), k=3)
        wide = shop.search(first, looks=["turned", "sharp"], category="all")
        views = [QueryView.TURNED, QueryView.SHARP]
        assert timeless(wide) == expected(PhotoTerm([first], looks=views), category="all")
        both = shop.search(*photos, category="all", combine="mean", distinct=True, offset=1)
        mean = PhotoTerm([first, second], combine="mean")
        assert timeless(both) == expected(mean, category="all", offset=1, distinct=True)
        part = shop.search(first, box=(0, 0, 0.5, 1))
        assert timeless(part) == expected(PhotoTerm([first], box=(0, 0, 0.5, 1)))
        item = catalogue.some[0]
        similar = shop.similar(item.product_id, min_score=0.5)
        assert timeless(similar) == expected(ProductTerm(item.product_id), min_score=0.5)
        assert shop.similar("裤子/2.0 0", category="all").category.predicted == "裤子/2.0"
        vector = np.arange(manifest.dim, dtype=np.float32)
        near = shop.search(vector, space=manifest.space, k=4)
        alone = [expected(VectorTerm(row[None], manifest.space), k=4) for row in (vector, -vector)]
        assert timeless(near) == alone[0]
        batch = shop.batch(np.stack([vector, -vector]), space=manifest.space, k=4)
        assert list(map(timeless, batch)) == alone
        red = shop.search(photos[0], where=["colour=red"], category="all")
        assert {result.attributes["colour"] for result in red.results} == {"red"}
        assert shop.thumbnail(item.image_id, 64)[:2] == b"\xff\xd8"
        assert shop.search(photos[0], build=catalogue.build).build == catalogue.build


def test_the_client_says_what_is_wrong(address: str, tmp_path: Path) -> None:
    with Client(address) as shop:
        with pytest.raises(ProblemError) as caught:
            shop.search(b"not a photo")
        assert caught.value.problem.code == "bad_image"
        with pytest.raises(ProblemError) as caught:
            shop.similar("nothing")
        assert (caught.value.problem.code, caught.value.problem.status) == ("unknown", 404)
        assert caught.value.problem.request_id in str(caught.value)
        with pytest.raises(UsageError, match=r"none\.jpg: No such file"):
            shop.search(tmp_path / "none.jpg")
        with pytest.raises(UsageError, match="no photo"):
            shop.search()
    with Client("http://127.0.0.1:1") as nobody, pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:1"):
        nobody.catalogue()


@pytest.mark.parametrize("command", re.findall(r"^curl (?!.*KEY).*127\.0\.0\.1:8080.*$", PAGE, re.MULTILINE))
def test_the_commands_of_the_docs_answer(command: str, address: str, sample: Path, tmp_path: Path) -> None:
    assert shutil.which("curl"), "the test wants curl: apt-get install curl"
    for name, category in (("photo", "hat"), ("front", "shoes"), ("back", "shoes")):
        shutil.copy(min((sample / category).iterdir()), tmp_path / f"{name}.jpg")
    words = shlex.split(command.replace("http://127.0.0.1:8080", address))
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    answer = json.loads(done.stdout)
    assert answer["results"], answer


def test_each_code_is_in_the_docs() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", PAGE, re.MULTILINE))
    assert {code: int(status) for code, status in rows.items()} == {code: status for code, (status, _) in CODES.items()}
