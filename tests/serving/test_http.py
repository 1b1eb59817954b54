"""What HTTP asks of a service: HEAD, Allow, gzip, ETag, names of hosts, CORS, errors with an id; who is counted."""

import gzip
import json
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import requests
from fastapi import FastAPI
from fastapi.testclient import TestClient

from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.serving.http.app import create_app
from likeness.serving.http.auth import new_key
from likeness.serving.service import Service

from .test_serve import serving

CACHED = ("/", "/app.js", "/style.css", "/docs", "/docs/docs.js", "/docs/swagger-ui.css", "/v1/openapi.json")


def app_with(log: Any = lambda line: None, **serve: Any) -> FastAPI:
    """A service without a build."""
    return create_app(Service(Settings.model_validate({"serve": serve})), log)


def client_of(app: FastAPI, **named: Any) -> TestClient:
    return TestClient(app, raise_server_exceptions=False, **named)


@pytest.fixture(scope="module")
def bare() -> TestClient:
    return client_of(app_with())


# -- methods


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/none", *CACHED])
def test_head_is_get_without_the_body(bare: TestClient, path: str) -> None:
    head, get = bare.head(path), bare.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    for name in ("content-type", "etag", "cache-control"):
        assert head.headers.get(name) == get.headers.get(name)
    assert int(head.headers["content-length"]) > 0


def test_head_goes_through_a_server(address: str) -> None:
    with requests.Session() as session:  # one connection: a body that nobody reads would be in the way of what follows
        for path in ("/v1/catalogue", "/docs/swagger-ui-bundle.js", "/v1/search", "/healthz"):
            head, get = session.head(address + path, timeout=30), session.get(address + path, timeout=30)
            assert (head.status_code, head.content) == (get.status_code, b"")
            assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/search", {"POST"}),
        ("HEAD", "/v1/search", {"POST"}),
        ("DELETE", "/v1/search/batch", {"POST"}),
        ("PUT", "/v1/catalogue", {"GET", "HEAD"}),
        ("POST", "/v1/products/x/similar", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
        ("POST", "/docs", {"GET", "HEAD"}),
        ("OPTIONS", "/healthz", {"GET", "HEAD"}),
    ],
)
def test_another_method_is_told_which_there_are(bare: TestClient, method: str, path: str, allowed: set[str]) -> None:
    answer = bare.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == allowed


# -- compression and caches


def test_large_answers_are_compressed_for_those_who_ask(client: TestClient) -> None:
    for path in ("/v1/openapi.json", "/docs/swagger-ui-bundle.js", "/app.js", "/v1/catalogue?some=20"):
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        packed = client.get(path, headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < len(plain.content) / 2
        assert packed.content == plain.content
        assert "Accept-Encoding" in packed.headers["vary"]
        assert "Accept-Encoding" in plain.headers["vary"]
    small = client.get("/healthz", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers
    thumbnail = client.get(client.get("/v1/catalogue").json()["some"][0]["url"], headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in thumbnail.headers


def test_what_a_caller_has_is_not_sent_again(client: TestClient) -> None:
    image = client.get("/v1/catalogue").json()["some"][0]["url"]
    for path in (*CACHED, "/v1/catalogue", image):
        first = client.get(path)
        tag = first.headers["etag"]
        for named in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
            again = client.get(path, headers={"If-None-Match": named})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
            assert again.headers["cache-control"] == first.headers["cache-control"]
        for named in ('"other"', "", tag[:-2] + '"'):
            assert client.get(path, headers={"If-None-Match": named}).status_code == 200
    assert client.get(image).headers["etag"] != client.get(image, params={"side": 64}).headers["etag"]
    assert client.get(image).headers["cache-control"] == "public, max-age=86400"


def test_answers_and_errors_are_not_kept(client: TestClient, photo: bytes) -> None:
    for answer in (
        client.post("/v1/search", files={"image": photo}),
        client.get("/v1/products/127708b572ad/similar"),
        client.get("/v1/products/none/similar"),
        client.get("/none"),
    ):
        assert answer.headers["cache-control"] == "no-store"


def test_caches_are_private_where_keys_are_on(service: Service, tmp_path: Path) -> None:
    app, keys = keyed_app(service, tmp_path)
    client, headers = client_of(app), {"X-API-Key": keys["partner"]}
    catalogue = client.get("/v1/catalogue", headers=headers)
    image = client.get(catalogue.json()["some"][0]["url"], headers=headers)
    assert catalogue.headers["cache-control"] == "private, no-cache"
    assert image.headers["cache-control"] == "private, max-age=86400"


def keyed_app(service: Service, folder: Path, **serve: Any) -> tuple[FastAPI, dict[str, str]]:
    """An application on the builds of a service, with keys for a `shop` and a `partner`."""
    path = folder / "keys.txt"
    keys = {name: new_key(path, name) for name in ("shop", "partner")}
    settings = service.settings.serve.model_copy(update={"keys": str(path), "builds": [], **serve})
    other = Service(service.settings.model_copy(update={"serve": settings}))
    other._builds = other.builds = service.builds
    other.hidden = other._hidden = service.hidden
    return create_app(other), keys


# -- errors


def test_each_error_has_the_id_of_its_request(tmp_path: Path) -> None:
    """Those of middleware too, and faults."""
    key = {"X-API-Key": new_key(tmp_path / "keys.txt", "shop")}
    lines: list[dict[str, Any]] = []
    origin = "https://shop.example"
    app = app_with(
        lambda line: lines.append(json.loads(line)),
        keys=str(tmp_path / "keys.txt"),
        rate=0.001,
        cors=[origin],
        hosts=["testserver"],
        photos_max=1,
    )

    @app.get("/fault")
    def fault() -> None:
        raise ZeroDivisionError("the service is broken")

    client = client_of(app)
    preflight = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    answers = {
        "no_key": client.get("/v1/catalogue"),
        "internal": client.get("/fault", headers=key | {"Origin": origin}),
        "too_many": client.get("/v1/catalogue", headers=key),
        "bad_request": client.get("/v1/catalogue", headers=key | {"Host": "other.example"}),
        "method": client.post("/healthz"),
        "not_ready": client.get("/readyz"),
    }
    errors = [*answers.items(), ("bad_request", client.options("/v1/search", headers=preflight))]
    for code, answer in errors:
        body = answer.json()
        assert (body["code"], body["status"]) == (code, answer.status_code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert body["request_id"] == answer.headers["x-request-id"] != ""
        assert body["request_id"] in {line["request_id"] for line in lines if "route" in line}
    assert answers["internal"].headers["access-control-allow-origin"] == origin
    assert "the service is broken" not in answers["internal"].text
    (logged,) = [line for line in lines if "fault" in line]
    assert logged["request_id"] == answers["internal"].json()["request_id"]
    assert "the service is broken" in logged["fault"]
    assert "def fault" in logged["fault"] or "in fault" in logged["fault"]


def test_a_body_that_is_too_large_has_one_too() -> None:
    settings = {"serve": {"photos_max": 1, "max_bytes": 1000}}
    client = client_of(create_app(Service(Settings.model_validate(settings))))
    answer = client.post("/v1/search", files={"image": b"x" * 3_000_000})
    assert answer.json()["code"] == "too_large"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


# -- hosts and origins


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("search.shop.example", True),
        ("SEARCH.shop.example:8443", True),
        ("a.b.catalogue.example", True),
        ("[::1]:8080", True),
        ("catalogue.example", False),
        ("search.shop.example.evil.example", False),
        ("evilcatalogue.example", False),
        ("127.0.0.1", False),
        ("", False),
    ],
)
def test_only_its_own_names_are_served(host: str, served: bool) -> None:
    client = client_of(app_with(hosts=["search.shop.example", "*.catalogue.example", "[::1]"]))
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == (200 if served else 400)
    assert served or "host" in answer.json()["detail"]
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_may_read_the_headers() -> None:
    client = client_of(app_with(cors=["https://shop.example"]))
    answer = client.get("/v1/catalogue", headers={"Origin": "https://shop.example"})
    assert {"X-Request-Id", "Retry-After", "ETag"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    preflight = {"Origin": "https://shop.example", "Access-Control-Request-Method": "HEAD"}
    assert client.options("/v1/catalogue", headers=preflight).status_code == 200


# -- places of the server


def test_where_a_photo_was_read_from_is_for_keys_with_the_right(
    service: Service, published: Settings, photo: bytes, tmp_path: Path
) -> None:
    app, keys = keyed_app(service, tmp_path, uris=["shop"], metrics=["shop"])
    client = client_of(app)
    space = service.builds.loaded().manifest.space
    vectors = {"space": space, "vectors": [[1.0] * 1280], "k": 2}
    place = str(Path(published.source.uri))
    for name, key in keys.items():
        headers = {"X-API-Key": key}
        answers = [
            client.post("/v1/search", files={"image": photo}, headers=headers),
            client.post("/v1/search/vectors", json=vectors, headers=headers),
            client.post("/v1/search/batch", json=vectors, headers=headers),
            client.get("/v1/products/127708b572ad/similar", headers=headers),
            client.get("/v1/catalogue", headers=headers),
        ]
        for answer in answers:
            assert answer.status_code == 200, answer.text
            assert ('"uri"' in answer.text) == (place in answer.text) == (name == "shop")
            assert '"url":"/v1/images/' in answer.text


def test_no_answer_names_a_path_of_the_server(
    client: TestClient, service: Service, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an answer, nor the reason why it lacks something, nor an error."""
    root = str(Path(service.settings.root))
    texts = [
        client.get("/v1/catalogue").text,
        client.post("/v1/search", files={"image": photo}, data={"build": "none"}).text,
        client.post("/v1/search", files={"image": b"none"}).text,
        client.get("/readyz").text,
    ]

    def denied() -> None:
        raise PermissionError(13, "Permission denied", f"{root}/hidden")

    monkeypatch.setattr(service.hidden, "refresh", denied)
    monkeypatch.setattr(service.hidden, "_read_at", service.hidden._read_at - 3600)
    end = time.monotonic() + 60
    while not service.hidden._error:
        assert time.monotonic() < end
        time.sleep(0.1)
    degraded = client.post("/v1/search", files={"image": photo})
    assert "Permission denied: 'ROOT/hidden'" in degraded.json()["coverage"]["degraded"][0]
    monkeypatch.setattr(type(service), "problem", f"{root}/builds/x is damaged")
    texts += [degraded.text, client.get("/readyz").text]
    assert "ROOT/builds/x is damaged" in texts[-1]
    for text in texts:
        assert root not in text


# -- who is counted


def test_log_and_figures_say_who_asked(tmp_path: Path) -> None:
    path, lines = tmp_path / "keys.txt", list[dict[str, Any]]()
    key = {"X-API-Key": new_key(path, "shop-裤子")}
    app = app_with(lambda line: lines.append(json.loads(line)), keys=str(path), metrics=["shop-裤子"])
    here, there = client_of(app, client=("10.0.0.9", 5)), client_of(app, client=("2001:db8::9", 5))
    here.get("/v1/catalogue", headers=key)
    here.get("/v1/catalogue")
    there.get("/v1/catalogue", headers=key)
    said = [(line["caller"], line["address"]) for line in lines]
    assert said == [("shop-裤子", "10.0.0.9"), ("-", "10.0.0.9"), ("shop-裤子", "2001:db8::9")]
    figures = here.get("/metrics", headers=key).text
    for caller, network in (("shop-裤子", "10.0.0.9"), ("-", "10.0.0.9"), ("shop-裤子", "2001:db8::/64")):
        assert f'likeness_caller_requests_total{{address="{network}",caller="{caller}"}} 1.0' in figures
    assert key["X-API-Key"] not in figures + str(lines)


def test_figures_do_not_grow_with_addresses() -> None:
    from likeness.serving.http.telemetry import Metrics

    metrics = Metrics(Service(Settings()))
    for number in range(3000):
        metrics.count_caller("everybody", f"10.0.{number // 256}.{number % 256}")
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("likeness_caller_requests_total")]
    assert len(lines) == 1001
    assert 'likeness_caller_requests_total{address="others",caller="everybody"} 2000.0' in lines


def test_figures_are_for_keys_with_the_right(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    shop, partner = ({"X-API-Key": new_key(path, name)} for name in ("shop", "partner"))
    for names, statuses in (((), (403, 403)), (("shop",), (200, 403)), (("*",), (200, 200))):
        client = client_of(app_with(keys=str(path), metrics=list(names)))
        assert client.get("/metrics").status_code == 401
        assert tuple(client.get("/metrics", headers=key).status_code for key in (shop, partner)) == statuses
    assert client_of(app_with()).get("/metrics").status_code == 200


def test_figures_on_a_port_of_their_own() -> None:
    from likeness.serving.http.telemetry import metrics_listener

    port = free_port()
    app = app_with(metrics_port=port)
    assert client_of(app).get("/metrics").status_code == 404
    assert "/metrics" not in app.openapi()["paths"]
    with metrics_listener(app.state.metrics.registry, "127.0.0.1", port):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
            text = gzip.decompress(text) if answer.headers["Content-Encoding"] == "gzip" else text
        assert b"likeness_ready 0.0" in text
        with pytest.raises(UsageError, match=rf"serve.metrics_port = {port} at 127.0.0.1.*name another"):
            with metrics_listener(app.state.metrics.registry, "127.0.0.1", port):
                pass
    with socket.create_server(("127.0.0.1", port)):
        pass  # it is free again


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_the_command_opens_the_port_of_figures(published: Settings) -> None:
    port = free_port()
    with serving(published, "--set", f"serve.metrics_port={port}") as (_, lines):
        assert lines[-1].startswith("listening")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
            assert b"likeness_builds_age_seconds" in answer.read()
        with serving(published, "--set", f"serve.metrics_port={port}") as (second, lines):
            assert second.wait(60) == 2
        assert any(f"serve.metrics_port = {port}" in line for line in lines)
