"""API keys: who gets in, how often, and what the file holds."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.serving.http import auth
from likeness.serving.http.app import create_app
from likeness.serving.http.auth import OPEN, Keys, new_key
from likeness.serving.http.error_responses import CODES
from likeness.serving.responses import Catalogue
from likeness.serving.service import Service


def client_with(**serve: Any) -> TestClient:
    """A service without a build: who is let in is told that it is not ready."""
    service = Service(Settings.model_validate({"serve": serve}))
    return TestClient(create_app(service), raise_server_exceptions=False)


def test_only_a_key_opens(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    key, other = new_key(path, "shop"), new_key(path, "裤子")
    assert len(key) >= 40
    assert key not in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o077 == 0
    client = client_with(keys=str(path))
    for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": other}, {"authorization": f"bearer {other}"}):
        assert client.get("/v1/catalogue", headers=headers).status_code == 503
    wrong = ("", "x", key[:-1], key + "x", key.upper(), "Bearer", "\xff")
    for headers in ({}, *({"X-API-Key": text} for text in wrong), {"Authorization": f"Basic {key}"}):
        for path_ in ("/v1/catalogue", "/metrics", "/v1/images/x", "/none"):
            answer = client.get(path_, headers={k: v.encode("latin-1") for k, v in headers.items()})
            assert (answer.status_code, answer.json()["code"]) == (401, "no_key")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-request-id"]
    for path_ in OPEN:
        assert client.get(path_).status_code in (200, 503)


def test_a_deleted_line_closes_and_a_broken_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_POLL_S", 0.0)
    path = tmp_path / "keys.txt"
    first, second = new_key(path, "first"), new_key(path, "second")
    keys = Keys(path)
    lines = path.read_text().splitlines()
    path.write_text(f"# revoked today\n\n{lines[1]}\n")
    assert (keys.owner(first), keys.owner(second)) == (None, "second")
    path.write_text("nonsense")
    assert keys.owner(second) == "second"
    path.unlink()
    assert keys.owner(second) == "second"


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    with pytest.raises(UsageError, match=r"cannot be read.*likeness key"):
        Keys(path)
    path.write_text("shop 1234\n")
    with pytest.raises(UsageError, match=r"keys\.txt:1 is not NAME"):
        Keys(path)
    path.unlink()
    new_key(path, "shop")
    for name in ("shop", "", "a b", "#x"):
        with pytest.raises(UsageError):
            new_key(path, name)
    with pytest.raises(UsageError, match="can be written"):
        new_key(tmp_path / "none" / "keys.txt", "shop")


def test_each_key_has_a_rate_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    one, other = ({"X-API-Key": new_key(path, name)} for name in ("one", "other"))
    client = client_with(keys=str(path), rate=5)
    answers = [client.get("/v1/catalogue", headers=one) for _ in range(12)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert 5 <= len(refused) <= 7
    assert refused[0].json()["status"] == CODES["too_many"][0]
    assert int(refused[0].headers["retry-after"]) >= 1
    assert client.get("/v1/catalogue", headers=other).status_code == 503
    time.sleep(0.5)
    assert client.get("/v1/catalogue", headers=one).status_code == 503


def test_thumbnails_are_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "thumbnail", lambda *_: b"a photo")
    path = tmp_path / "keys.txt"
    key = {"X-API-Key": new_key(path, "shop")}
    client = client_with(keys=str(path), rate=0.001, at_once=1)
    thumbnails = [client.get("/v1/images/x", headers=key).status_code for _ in range(60)]
    assert thumbnails == [200] * 60  # more than a page shows
    queries = [client.get("/v1/catalogue", headers=key).status_code for _ in range(2)]
    assert queries == [503, 429]
    statuses = [client.get("/v1/images/x", headers=key).status_code for _ in range(100)]
    assert {200, 429} == set(statuses)  # they have a bound too
    assert client.get("/v1/images/x").status_code == 401


def test_no_more_are_at_work_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(self: Service, count: int, space: str) -> Catalogue:
        time.sleep(0.5)
        return Catalogue(space="s@1", build="b", images=0, products=0, categories={}, some=())

    monkeypatch.setattr(Service, "catalogue", slow)
    with client_with(at_once=2) as client, ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(lambda _: client.get("/v1/catalogue").status_code, range(6)))
        assert statuses == [200, 200, 429, 429, 429, 429]
        assert client.get("/v1/catalogue").status_code == 200
