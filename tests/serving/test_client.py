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
from likeness.serving.root import SearchParams
from likeness.serving.service import Service

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def told(answer: Any) -> dict[str, Any]:
    """What does not depend on the clock."""
    return {key: value for key, value in json.loads(answer.model_dump_json()).items() if key != "took_ms"}


def test_the_client_gets_the_answers_of_the_service(address: str, service: Service, sample: Path) -> None:
    photos = [min((sample / name).iterdir()) for name in ("hat", "shoes")]
    space = service.current.loaded().manifest.space
    with Client(address) as shop:
        held = shop.catalogue(5)
        assert (held.images, len(held.some)) == (163, 5)
        for path in photos:
            for answer in (shop.search(path, k=3), shop.search(str(path), k=3), shop.search(path.read_bytes(), k=3)):
                assert told(answer).items() >= told_by(service.photos([path.read_bytes()], SearchParams(3))).items()
        wide = shop.search(photos[0], looks=["turned", "sharp"], category="all")
        assert told(wide) == told_by(
            service.photos(
                [photos[0].read_bytes()], SearchParams(category="all"), looks=[QueryView.TURNED, QueryView.SHARP]
            )
        )
        both = shop.search(*photos, category="all", combine="mean", distinct=True, offset=1)
        wish = SearchParams(10, "all", offset=1, distinct=True)
        assert told(both) == told_by(service.photos([path.read_bytes() for path in photos], wish, combine="mean"))
        part = shop.search(photos[0], box=(0, 0, 0.5, 1))
        assert told(part) == told_by(service.photos([photos[0].read_bytes()], SearchParams(), box=(0, 0, 0.5, 1)))
        some = held.some[0]
        assert told(shop.similar(some.product_id, min_score=0.5)) == told_by(
            service.product(some.product_id, SearchParams(min_score=0.5))
        )
        assert shop.similar("裤子/2.0 0", category="all").category.predicted == "裤子/2.0"
        vector = np.arange(service.current.loaded().manifest.dim, dtype=np.float32)
        near = shop.vectors(space, [vector.tolist()], k=4)
        assert told(near) == told_by(service.vectors(vector[None], space, SearchParams(4)))
        many = shop.batch(space, [vector.tolist(), (-vector).tolist()], k=4)
        alone = [service.vectors(row[None], space, SearchParams(4)) for row in (vector, -vector)]
        assert list(map(told, many)) == list(map(told_by, alone))
        red = shop.search(photos[0], where=["colour=red"], category="all")
        assert {result.attributes["colour"] for result in red.results} == {"red"}
        assert shop.thumbnail(some.image_id, 64)[:2] == b"\xff\xd8"
        assert shop.search(photos[0], build=held.build).build == held.build


def told_by(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in json.loads(json.dumps(answer)).items() if key != "took_ms"}


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
