"""The HTTP API: the answers of the batch search, errors that say what to do, and nothing that leaks or stays."""

import hashlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from tests.serving.conftest import COLOURS

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.shard import Hit
from likeness.serving import root
from likeness.serving.http.app import create_app
from likeness.serving.http.error_responses import CODES
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES

K = 7


def search(client: TestClient, *photos: bytes, **values: Any) -> dict[str, Any]:
    answer = client.post("/v1/search", files=[("image", photo) for photo in photos], data={"k": K, **values})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def problem(response: Any) -> dict[str, Any]:
    """The body of an error, of one of the documented kinds."""
    assert response.headers["content-type"] == "application/problem+json"
    body = dict(response.json())
    assert (body["status"], body["title"]) == CODES[body["code"]]
    assert body["status"] == response.status_code
    assert not re.search(r"--[a-z]|`likeness |spark-submit", body["detail"]), "a caller can run no command"
    return body


def ids(answer: dict[str, Any]) -> list[str]:
    return [result["image_id"] for result in answer["results"]]


def batch_search(batch: Root, vector: np.ndarray, space: str, params: SearchParams) -> dict[str, Any]:
    return batch.search(vector, space, params).model_dump(mode="json")


@pytest.fixture(scope="session")
def batch(published: Settings) -> Root:
    builds = Builds(published.root)
    return Root(builds.find(), Leaf(builds, builds.find()))


@pytest.fixture(scope="session")
def vectors(published: Settings) -> dict[str, np.ndarray]:
    """By image_id, as the batch extraction made them."""
    rows = TableReader(published).read(FEATURES, ("image_id", "vector"))
    pairs = zip(rows["image_id"].to_pylist(), rows["vector"], strict=True)
    return {key: np.asarray(vector.values, np.float32) for key, vector in pairs}


# -- answers


def test_photos_are_answered_as_the_batch_search_answers(
    client: TestClient, batch: Root, vectors: dict[str, np.ndarray], sample: Path
) -> None:
    photos = [path.read_bytes() for path in sorted(sample.rglob("*.jpg"))]
    assert len(photos) >= 100
    for photo in photos:
        key = hashlib.sha256(photo).hexdigest()
        served = search(client, photo, category="all")
        expected = batch_search(batch, vectors[key], batch.manifest.space, SearchParams(K, "all"))
        assert ids(served) == ids(expected)
        assert ids(served)[0] == key
        scores = [result["score"] for result in served["results"]]
        assert scores == pytest.approx([result["score"] for result in expected["results"]], abs=1e-4)
        for name in ("space", "build", "coverage"):
            assert served[name] == expected[name]


def test_the_best_categories_are_searched(client: TestClient, sample: Path) -> None:
    photo = min((sample / "hat").iterdir()).read_bytes()
    answer = search(client, photo)
    assert answer["category"]["predicted"] == "hat"
    assert len(answer["category"]["searched"]) == 3
    assert answer["coverage"]["searched"] < answer["coverage"]["vectors"]
    only = search(client, photo, category="裤子/2.0", k=50)
    assert {result["category"] for result in only["results"]} == {"裤子/2.0"}
    assert len(only["results"]) == 3


def test_a_box_is_searched_as_the_photo_cut_there(client: TestClient, photo: bytes) -> None:
    with Image.open(io.BytesIO(photo)) as opened:
        width, height = opened.size
        part = opened.crop((width // 4, 0, width, height // 2))
    file = io.BytesIO()
    part.save(file, "PNG")
    box = f"{(width // 4) / width},0,1,{(height // 2) / height}"
    cut, sent = search(client, photo, box=box, category="all"), search(client, file.getvalue(), category="all")
    assert ids(cut) == ids(sent)
    assert [r["score"] for r in cut["results"]] == pytest.approx([r["score"] for r in sent["results"]], abs=1e-3)
    assert ids(cut) != ids(search(client, photo, category="all"))
    assert ids(search(client, photo, box="0,0,1,1")) == ids(search(client, photo))


def test_several_photos_of_one_thing(
    client: TestClient, batch: Root, vectors: dict[str, np.ndarray], sample: Path
) -> None:
    photos = [min((sample / name).iterdir()).read_bytes() for name in ("hat", "shoes")]
    keys = [hashlib.sha256(photo).hexdigest() for photo in photos]
    best = search(client, *photos, category="all")
    assert set(ids(best)[:2]) == set(keys)
    mean = search(client, *photos, category="all", combine="mean")
    unit = [vectors[key] / np.linalg.norm(vectors[key]) for key in keys]
    middle = np.mean(unit, axis=0).astype(np.float32)
    assert ids(mean) == ids(batch_search(batch, middle, batch.manifest.space, SearchParams(K, "all")))
    assert mean["results"][0]["score"] < best["results"][0]["score"]


def test_a_product_is_answered_without_itself(client: TestClient, batch: Root, vectors: dict[str, np.ndarray]) -> None:
    items = client.get("/v1/catalogue", params={"some": 100}).json()["some"]
    assert len(items) >= 90
    for one in items[:20]:
        answer = client.get(f"/v1/products/{one['product_id']}/similar", params={"k": K, "category": "all"}).json()
        expected = batch_search(batch, vectors[one["image_id"]], batch.manifest.space, SearchParams(K + 1, "all"))
        assert ids(answer) == ids(expected)[1:]
        assert one["product_id"] not in {result["product_id"] for result in answer["results"]}
        assert "encode" not in answer["took_ms"]


def test_near_duplicates_are_left_out(client: TestClient, vectors: dict[str, np.ndarray], photo: bytes) -> None:
    """Greedily: each result that stays is unlike all before it, and each that goes is like one that stays."""
    whole = search(client, photo, k=100, category="all")
    unit = {key: vector / np.linalg.norm(vector) for key, vector in vectors.items()}
    limit = 0.7
    answer = search(client, photo, k=100, category="all", near_duplicate=limit)
    stay = ids(answer)
    assert 10 < len(stay) <= 100
    assert stay != ids(whole)
    for place, key in enumerate(stay):
        assert all(unit[key] @ unit[other] < limit for other in stay[:place])
    for key in ids(whole):
        if key not in stay:
            assert any(unit[key] @ unit[other] >= limit - 1e-6 for other in stay)
    assert len(set(ids(search(client, photo, k=20, category="all", near_duplicate=limit)))) == 20  # filled up
    assert ids(search(client, photo, k=100, category="all", near_duplicate=1)) == ids(whole)


def test_only_products_with_an_attribute(client: TestClient, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(client, photo, k=163, category="all")["results"]
    colours = [result["attributes"]["colour"] for result in whole]
    assert len(whole) == 163
    assert set(colours) == set(COLOURS)
    for accepted in ([COLOURS[2]], [COLOURS[0], COLOURS[2]]):
        where = [f"colour={colour}" for colour in accepted]
        expected = [result["image_id"] for result in whole if result["attributes"]["colour"] in accepted]
        for k in (5, 40, 163):
            assert ids(search(client, photo, k=k, category="all", where=where)) == expected[:k]
        params = {"k": 5, "category": "all", "where": where}
        one = client.get("/v1/products/裤子%2F2.0 1/similar", params=params).json()["results"]
        assert {result["attributes"]["colour"] for result in one} == set(accepted)
    for where in (["size=9"], ["colour=red", "size=9"], ["colour="]):
        nothing = search(client, photo, category="all", where=where)
        assert (ids(nothing), nothing["coverage"]["degraded"]) == ([], [])
    for where in ("colour", "=red", ""):
        body = problem(client.post("/v1/search", files={"image": photo}, data={"where": where}))
        assert "name=value" in body["detail"]
    monkeypatch.setattr(root, "_WHERE_FIRST", 16)
    monkeypatch.setattr(root, "_MOST", 16)
    answer = search(client, photo, category="all", where=[f"colour={colours[0]}", "colour=none"], k=16)
    assert ids(answer) == [result["image_id"] for result in whole[:16] if result["attributes"]["colour"] == colours[0]]
    assert "of the 16 nearest images" in answer["coverage"]["degraded"][0]


def test_what_nobody_knows_is_refused(client: TestClient, photo: bytes) -> None:
    body = problem(client.get("/v1/products/x/similar", params={"categroy": "hat"}))
    assert (body["code"], "categroy" in body["detail"]) == ("invalid", True)
    assert "categroy" in problem(client.post("/v1/search", files={"image": photo}, data={"categroy": "hat"}))["detail"]


def test_a_batch_is_answered_one_by_one(
    client: TestClient, service: Service, batch: Root, vectors: dict[str, np.ndarray]
) -> None:
    rows = [vectors[key].tolist() for key in sorted(vectors)[:40]]
    query = {"space": batch.manifest.space, "vectors": rows, "k": K, "where": ["colour=red"]}
    answers = client.post("/v1/search/batch", json=query).json()["answers"]
    assert len(answers) == 40
    for row, answer in zip(rows, answers, strict=True):
        assert ids(answer) == ids(client.post("/v1/search/vectors", json=query | {"vectors": [row]}).json())
    for wrong, code in (([[1, 2]], "space_mismatch"), ([[1], [1, 2]], "bad_request"), ([], "invalid")):
        assert problem(client.post("/v1/search/batch", json=query | {"vectors": wrong}))["code"] == code


def test_a_name_of_a_product_may_hold_anything(client: TestClient) -> None:
    answer = client.get("/v1/products/%E8%A3%A4%E5%AD%90%2F2.0%200/similar", params={"category": "all"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["category"]["predicted"] == "裤子/2.0"
    for name in ("nothing", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "a/similar", "%00", "'; DROP TABLE products"):
        assert problem(client.get(f"/v1/products/{name}/similar"))["code"] == "unknown"


def test_vectors_are_answered(client: TestClient, batch: Root, vectors: dict[str, np.ndarray]) -> None:
    key = min(vectors)
    query = {"space": batch.manifest.space, "vectors": [vectors[key].tolist()], "k": K, "category": "all"}
    assert ids(client.post("/v1/search/vectors", json=query).json())[0] == key
    other = query | {"space": "alexnet.fc6@00000000"}
    assert problem(client.post("/v1/search/vectors", json=other))["code"] == "space_mismatch"
    assert problem(client.post("/v1/search/vectors", json=query | {"vectors": [[1, 2]]}))["code"] == "space_mismatch"
    assert problem(client.post("/v1/search/vectors", json=query | {"vectors": [[1, 2], [1]]}))["code"] == "bad_request"
    for wrong in ([], [["x"]], "vector", [[None]]):
        assert problem(client.post("/v1/search/vectors", json=query | {"vectors": wrong}))["code"] == "invalid"
    named = {"content-type": "application/json"}
    for body in (b"{", b'{"space": "s", "vectors": [[NaN]]}', b"[" * 100_000):
        body = problem(client.post("/v1/search/vectors", content=body, headers=named))
        assert body["code"] in ("invalid", "bad_request")


def test_pages_are_one_answer(client: TestClient, photo: bytes) -> None:
    whole = ids(search(client, photo, k=30, category="all"))
    pages = [ids(search(client, photo, k=10, offset=start, category="all")) for start in (0, 10, 20)]
    assert whole == [key for page in pages for key in page]
    assert len(set(whole)) == 30
    assert ids(search(client, photo, k=10, offset=900, category="all")) == []


def test_a_lowest_score_leaves_out_what_is_below(client: TestClient, photo: bytes) -> None:
    scores = [result["score"] for result in search(client, photo, k=50, category="all")["results"]]
    least = (scores[9] + scores[10]) / 2
    kept = [result["score"] for result in search(client, photo, k=50, category="all", min_score=least)["results"]]
    assert kept == scores[:10]
    assert ids(search(client, photo, min_score=1.5)) == []


def test_results_say_where_their_photo_is(client: TestClient, service: Service, photo: bytes) -> None:
    for result in search(client, photo)["results"]:
        thumbnail = client.get(result["url"], params={"side": 64})
        assert thumbnail.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(thumbnail.content)) as drawn:
            assert max(drawn.size) == 64
    settings = service.settings.model_copy(
        update={"serve": service.settings.serve.model_copy(update={"photo_url": "https://shop/{category}/{image_id}"})}
    )
    other = Service(settings)
    hit = Hit(0, "1", "裤子/2.0", "u", ("p",))
    assert other._url(hit) == "https://shop/%E8%A3%A4%E5%AD%90%2F2.0/1"


def test_a_photo_that_was_moved_is_drawn_from_the_table(
    client: TestClient, service: Service, published: Settings
) -> None:
    one = service.catalogue(1).some[0]
    place = Path(one.uri.removeprefix("file://"))
    moved = place.rename(place.with_suffix(".away"))
    try:
        assert client.get(one.url, params={"side": 99}).status_code == 200
        place.write_bytes(b"another file under its name")
        assert client.get(one.url, params={"side": 98}).status_code == 200
    finally:
        moved.rename(place)


@pytest.mark.parametrize("name", ["x", "0" * 64, "..%2f..%2fetc%2fpasswd", "../../../../etc/passwd", "A" * 64, "%00"])
def test_no_other_image_is_shown(client: TestClient, name: str) -> None:
    assert problem(client.get(f"/v1/images/{name}"))["code"] == "unknown"


def test_a_hidden_product_is_nowhere(client: TestClient, published: Settings, photo: bytes) -> None:
    first = search(client, photo, category="all")["results"][0]
    HiddenProducts(published.root).hide([first["product_id"]])
    try:
        _until(lambda: first["image_id"] not in ids(search(client, photo, category="all")))
        assert problem(client.get(f"/v1/products/{first['product_id']}/similar"))["code"] == "unknown"
        assert problem(client.get(first["url"]))["code"] == "unknown"
    finally:
        HiddenProducts(published.root).show([first["product_id"]])
    _until(lambda: first["image_id"] in ids(search(client, photo, category="all")))


def _until(true: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.1)


def test_a_build_is_searched_by_its_name(client: TestClient, published: Settings, photo: bytes) -> None:
    chain = Builds(published.root).chain()
    assert len(chain) == 2
    for path in chain:
        answer = search(client, photo, build=path.partition("/")[2], category="all")
        assert answer["build"] == path.partition("/")[2]
    assert answer["coverage"]["vectors"] < search(client, photo)["coverage"]["vectors"]
    refused = client.post("/v1/search", files={"image": photo}, data={"build": "none-such"})
    assert problem(refused)["code"] == "unknown"


def test_a_build_out_of_service_is_for_those_who_may(
    service: Service, client: TestClient, published: Settings, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may name the build in service; no request can fill the memory with others."""
    now, before = (path.partition("/")[2] for path in Builds(published.root).chain())
    for allowed, codes in (((), ("forbidden", "forbidden")), (("shop",), ("forbidden", "forbidden"))):
        serve = published.serve.model_copy(update={"builds": list(allowed)})
        monkeypatch.setattr(service, "settings", published.model_copy(update={"serve": serve}))
        assert search(client, photo, build=now)["build"] == now
        answers = [client.post("/v1/search", files={"image": photo}, data={"build": name}) for name in (before, "none")]
        assert tuple(problem(one)["code"] for one in answers) == codes


def test_what_follows_the_builds_outlives_any_error(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(slot: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as broken:
        broken.setattr(service.builds, "_renew_root", fail)
        time.sleep(2.5)
    assert service.builds._thread.is_alive()
    _until(lambda: service.builds.age_s < 2, 5)
    assert client.get("/readyz").json()["checked_s"] < 3
    text = client.get("/metrics").text
    for name in ("likeness_builds_age_seconds", "likeness_hidden_age_seconds"):
        assert float(next(line for line in text.splitlines() if line.startswith(name)).split()[1]) < 3


# -- errors


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in some hundred bytes: only its header is there."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"not a photo", "not_an_image"), (b"\xff\xd8\xff", "not_an_image"), (bomb(), "too_many_pixels")],
)
def test_a_photo_that_cannot_be_used_is_told(client: TestClient, data: bytes, reason: str) -> None:
    body = problem(client.post("/v1/search", files={"image": data}))
    assert (body["code"], body["reason"]) == ("bad_image", reason)
    assert body["request_id"]


def test_half_a_photo_is_told(client: TestClient, photo: bytes) -> None:
    assert problem(client.post("/v1/search", files={"image": photo[:-2000]}))["reason"] == "undecodable"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"k": 0}, "invalid"),
        ({"k": -1}, "invalid"),
        ({"k": "many"}, "invalid"),
        ({"k": 10**9}, "bad_request"),
        ({"k": 10**30}, "bad_request"),
        ({"offset": -1}, "invalid"),
        ({"offset": 995, "k": 10}, "bad_request"),
        ({"min_score": "nan"}, "invalid"),
        ({"category": "no such"}, "bad_request"),
        ({"category": "../hat"}, "bad_request"),
        ({"box": "1,2"}, "bad_request"),
        ({"box": "a,b,c,d"}, "bad_request"),
        ({"box": "0.5,0,0.5,1"}, "bad_image"),
        ({"box": "0,0,1,1.1"}, "bad_image"),
        ({"box": "nan,nan,nan,nan"}, "bad_image"),
        ({"box": "0,0,inf,1"}, "bad_image"),
        ({"combine": "sum"}, "invalid"),
        ({"looks": "askew"}, "invalid"),
    ],
)
def test_a_parameter_that_cannot_be_used_is_refused(
    client: TestClient, photo: bytes, values: dict[str, Any], code: str
) -> None:
    assert problem(client.post("/v1/search", files={"image": photo}, data=values))["code"] == code


def test_other_paths_and_methods_are_told(client: TestClient, photo: bytes) -> None:
    assert problem(client.get("/v2/search"))["code"] == "unknown"
    assert problem(client.get("/v1/search"))["code"] == "method"
    assert problem(client.post("/v1/search"))["code"] == "invalid"
    assert problem(client.get("/..%2f..%2fpyproject.toml"))["code"] == "unknown"
    many = [("image", photo)] * 9
    assert problem(client.post("/v1/search", files=many))["code"] == "bad_request"


def test_a_body_that_is_too_large_is_not_read(service: Service, photo: bytes) -> None:
    serve = service.settings.serve.model_copy(update={"photos_max": 1, "max_bytes": 1000})
    small = service.settings.model_copy(update={"serve": serve})
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 100_000
            yield b"x" * 100_000

    limited = Service(small)
    with TestClient(create_app(limited), raise_server_exceptions=False) as client:
        named = {"content-type": "multipart/form-data; boundary=b"}
        assert problem(client.post("/v1/search", content=b"x" * 3_000_000, headers=named))["code"] == "too_large"
        assert problem(client.post("/v1/search", content=endless(), headers=named))["code"] == "too_large"


# -- health, figures, the page


def test_nothing_is_answered_before_a_build_is_published(published: Settings, tmp_path: Path, photo: bytes) -> None:
    empty = Service(published.model_copy(update={"root": str(tmp_path / "root")}))
    empty.start()
    try:
        with TestClient(create_app(empty), raise_server_exceptions=False) as client:
            assert client.get("/healthz").status_code == 200
            body = problem(client.get("/readyz"))
            assert body["code"] == "not_ready"
            assert "nothing is published yet" in body["detail"]
            assert problem(client.post("/v1/search", files={"image": photo}))["code"] == "not_ready"
            assert problem(client.get("/v1/catalogue"))["code"] == "not_ready"
            assert "likeness_ready 0.0" in client.get("/metrics").text
    finally:
        empty.stop()


def test_figures_by_stage(client: TestClient, photo: bytes) -> None:
    search(client, photo)
    text = client.get("/metrics").text
    for line in (
        'likeness_stage_seconds_count{stage="encode"}',
        'likeness_stage_seconds_count{stage="search"}',
        'likeness_requests_total{route="/v1/search",status="200"}',
        "likeness_ready 1.0",
    ):
        assert line in text


def test_a_request_has_a_name_and_a_line(service: Service, photo: bytes) -> None:
    lines: list[dict[str, Any]] = []
    with TestClient(create_app(service, lambda line: lines.append(json.loads(line)))) as client:
        answer = client.get("/readyz", headers={"X-Request-Id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        assert lines[-1]["request_id"] == "mine-1"
        assert (lines[-1]["route"], lines[-1]["status"]) == ("/readyz", 200)
        other = client.get("/readyz", headers={"X-Request-Id": "not a name\x7f"})
        assert other.headers["x-request-id"] == lines[-1]["request_id"] != "not a name\x7f"


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name, kind in (("app.js", "text/javascript"), ("style.css", "text/css")):
        asset = client.get(f"/{name}")
        assert asset.headers["content-type"].startswith(kind)
        assert name in page.text
        assert "http://" not in asset.text
        assert "https://" not in asset.text


def test_pages_of_other_origins_may_ask_where_they_are_named(service: Service) -> None:
    serve = service.settings.serve.model_copy(update={"cors": ["https://shop.example"]})
    named = Service(service.settings.model_copy(update={"serve": serve}))
    for app, origin, allowed in (
        (create_app(named), "https://shop.example", "https://shop.example"),
        (create_app(named), "https://other.example", None),
        (create_app(service), "https://shop.example", None),
    ):
        answer = TestClient(app).get("/healthz", headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_uploads_are_not_kept(client: TestClient, published: Settings, rng: np.random.Generator) -> None:
    import tempfile

    def files() -> set[Path]:
        places = (published.root, published.extract.cache, tempfile.gettempdir())
        return {Path(folder, name) for place in places for folder, _, names in os.walk(place) for name in names}

    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (1400, 1400, 3), np.uint8)).save(file, "PNG")
    assert len(file.getvalue()) > 5_000_000
    before = files()
    search(client, file.getvalue())
    marker = file.getvalue()[1000:1064]
    new = [path for path in files() - before if path.exists()]
    assert not [path for path in new if marker in path.read_bytes()]


# -- swap


def test_publishing_and_rolling_back_under_load(published: Settings, photo: bytes) -> None:
    """No query fails, each answer is of one build, and each build answers."""
    builds = Builds(published.root)
    new, old = builds.chain()
    sizes = {builds.read(path).build: builds.read(path).vectors for path in (new, old)}
    service = Service(published)
    service.start()
    stop, answers, failed = threading.Event(), list[tuple[str, int]](), list[Any]()

    def ask(client: TestClient) -> None:
        while not stop.is_set():
            answer = client.post("/v1/search", files={"image": photo}, data={"category": "all"})
            if answer.status_code == 200:
                body = answer.json()
                answers.append((body["build"], body["coverage"]["searched"]))
            else:
                failed.append(answer.text)

    try:
        with TestClient(create_app(service), raise_server_exceptions=False) as client:
            threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                for path in [old, new] * 4:
                    builds.rollback(path)
                    _until(lambda path=path: service.builds.loaded().manifest.path == path)
            finally:  # a client that is closed waits for those that still ask
                stop.set()
                for thread in threads:
                    thread.join()
    finally:
        builds.rollback(old)
        builds.publish(builds.read(new), 5)
        service.stop()
    assert not failed
    assert {build for build, _ in answers} == set(sizes)
    assert all(searched == sizes[build] for build, searched in answers)


def test_a_build_that_cannot_be_loaded_leaves_the_one_before(published: Settings, tmp_path: Path, photo: bytes) -> None:
    import shutil

    root = tmp_path / "root"
    shutil.copytree(published.root, root)
    builds = Builds(str(root))
    new, old = builds.chain()
    builds.rollback(old)
    said: list[str] = []
    service = Service(published.model_copy(update={"root": str(root)}), said.append)
    service.start()
    try:
        damaged = builds.read(new).shards[0].index.name
        (root / "builds" / builds.read(new).space / damaged).write_bytes(b"not an index")
        builds.rollback(new)
        _until(lambda: any("cannot serve what is published" in line for line in said))
        with TestClient(create_app(service)) as client:
            assert search(client, photo)["build"] == old.partition("/")[2]
            assert client.get("/readyz").json()["build"] == old
        assert len(said) == 2
    finally:
        service.stop()
