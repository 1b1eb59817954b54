"""A root with published builds of the sample, and the service of it, for tests of serving."""

import copy
import csv
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from tests.browser import VIEWS, chromium

from likeness.core.settings import Settings, load_settings
from likeness.serving.http.app import create_app
from likeness.serving.http.auth import new_key
from likeness.serving.http.connections import server_config
from likeness.serving.service import Service

EXPECTED = re.compile("status of (400|401|404|422|429|50[0-3])|ERR_INTERNET_DISCONNECTED")
"""What chromium says of answers and of a network that the tests of the page bring about."""
COLOURS = ("red", "green", "light blue")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.spark)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory, sample: Path, quick_jvm: None, model_cache: Path) -> Settings:
    """A root with two builds: of the sample, and of the sample and three products with a photo of their own.

    Every product has a colour, which has nothing to do with how it looks.
    """
    from likeness.spark import jobs

    folder = tmp_path_factory.mktemp("serving")
    source = folder / "photos"
    shutil.copytree(sample, source)
    with (source / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (source / "catalogue.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], "colour"])
        table.writeheader()
        table.writerows(row | {"colour": COLOURS[int(row["product_id"], 16) % len(COLOURS)]} for row in rows)
    flags = {"root": str(folder / "root"), "source.uri": str(source), "date": "2026-01-02"}
    assignments = (f"extract.cache={model_cache}", "index.pack_vectors=1", 'serve.builds=["*"]')
    settings = load_settings(None, flags, assignments)
    jobs.nightly(settings)
    with (source / "catalogue.csv").open("a", encoding="utf-8") as file:
        for number in range(3):
            _mirrored(sample, source, number)
            file.write(f"裤子/2.0 {number},mirrored-{number}.png,裤子/2.0,{COLOURS[0]}\n")
    jobs.nightly(settings)
    return settings


def _mirrored(sample: Path, source: Path, number: int) -> None:
    from PIL import Image, ImageOps

    with Image.open(sorted((sample / "pants").iterdir())[number]) as photo:
        ImageOps.mirror(photo.convert("RGB")).save(source / f"mirrored-{number}.png")


@pytest.fixture(scope="session")
def service(published: Settings) -> Iterator[Service]:
    started = Service(published)
    started.start()
    yield started
    started.stop()


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """Where a service listens, as http://127.0.0.1:PORT."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = server_config(create_app(service), service.settings.serve, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def address(service: Service) -> Iterator[str]:
    with listening(service) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and key of the same service with a key, four requests a second, two at once, and 60 results at most."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    key = new_key(keys, "shop")
    serve = service.settings.serve.model_copy(update={"keys": str(keys), "rate": 4, "at_once": 2, "k_max": 60})
    limited = copy.copy(service)
    limited.settings = service.settings.model_copy(update={"serve": serve})
    with listening(limited) as url:
        yield url, key


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(params=VIEWS)
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened on a desktop and on a phone; at the end it must not have complained."""
    faults: list[str] = []
    with browser.new_context(**VIEWS[request.param]) as context:
        opened = context.new_page()
        opened.set_default_timeout(20_000)
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        opened.goto(address)
        yield opened
    assert not [fault for fault in faults if not EXPECTED.search(fault)]


@pytest.fixture
def hat(sample: Path) -> Path:
    return min((sample / "hat").iterdir())


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service), raise_server_exceptions=False) as opened:
        yield opened
