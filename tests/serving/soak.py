"""A soak of the query service: steady good queries beside hostile traffic of all kinds at once."""

import io
import itertools
import multiprocessing
import os
import random
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from PIL import Image
from tests.serving.test_serve import serving

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.serving.http.auth import new_key
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

GOOD_PAUSE_S = 0.25
DEADLINE_MS = 5000
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
Act = Callable[[], "tuple[str, int] | None"]
"""One hostile act; gives its kind and the status of the answer, if there is one."""


@dataclass
class Soak:
    """What a soak has seen. Times in milliseconds; memory in bytes, a sample each second."""

    quiet: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    hostile: Counter[tuple[str, int]] = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)

    @property
    def slower(self) -> float:
        """The 99th percentile of good queries beside the hostile traffic, as a multiple of that without it."""
        return _p99(self.beside) / _p99(self.quiet)

    @property
    def grown(self) -> float:
        """Bytes by which the last third of the memory samples exceeds the middle one, at the median."""
        third = len(self.memory) // 3
        return statistics.median(self.memory[2 * third :]) - statistics.median(self.memory[third : 2 * third])


def _p99(times: Sequence[float]) -> float:
    return float(np.percentile(times, 99))


def soak(published: Settings, photo: bytes, seconds: float, folder: Path) -> Soak:
    """Serves a root with two builds, and asks: a sixth of the time quietly, then beside hostile traffic.

    Args:
        published: settings of the root, which is changed: products are hidden and shown, builds put in service.
        photo: a good photo.
        seconds: of it all.
        folder: for the file of keys.
    """
    keys = {name: new_key(folder / "keys.txt", name) for name in ("shop", "bad")}
    flags = []
    for text in (f"serve.keys={folder / 'keys.txt'}", f"serve.deadline_ms={DEADLINE_MS}", "serve.header_s=5"):
        flags += ["--set", text]
    seen, over = Soak(), threading.Event()
    with ExitStack() as stack:
        process, lines = stack.enter_context(serving(published, *flags))
        address = lines[-1].removeprefix("listening on ").rstrip("/")
        server, products = psutil.Process(process.pid), _products(published)
        times = seen.quiet
        asking = [
            threading.Thread(target=_ask, args=(query, over, lambda took: times.append(took), seen.unanswered))
            for query in _good(address, keys["shop"], photo, published, products)
        ]
        stack.callback(_join, over, asking)
        _start(asking)
        time.sleep(seconds / 6)
        times = seen.beside
        seen.hostile = stack.enter_context(_attackers(address, keys["bad"], products))
        operating = [threading.Thread(target=_act, args=(_operator(published, products), over, Counter()))]
        stack.callback(_join, over, operating)
        _start(operating)
        end = time.monotonic() + seconds * 5 / 6
        while time.monotonic() < end:
            seen.memory.append(server.memory_full_info().uss)
            time.sleep(1)
        assert process.poll() is None
    return seen


def _start(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.start()


def _join(over: threading.Event, threads: Sequence[threading.Thread]) -> None:
    over.set()
    for thread in threads:
        thread.join()


def _products(settings: Settings) -> list[str]:
    names = TableReader(settings).read(LISTINGS, ("product_id",))["product_id"].to_pylist()
    return sorted(name for name in names if name.isalnum())


# -- good queries


def _good(
    address: str, key: str, photo: bytes, settings: Settings, products: Sequence[str]
) -> list[Callable[[], requests.Response]]:
    rows = TableReader(settings).read(FEATURES, ("space", "vector"))
    vectors = {"space": rows["space"][0].as_py(), "vectors": [rows["vector"][0].as_py()]}
    names, sessions = itertools.cycle(products[2:]), [requests.Session() for _ in range(3)]
    for session in sessions:
        session.headers["X-API-Key"] = key
    return [
        lambda: sessions[0].get(f"{address}/v1/products/{next(names)}/similar", timeout=60),
        lambda: sessions[1].post(f"{address}/v1/search", files={"image": photo}, timeout=60),
        lambda: sessions[2].post(f"{address}/v1/search/vectors", json=vectors, timeout=60),
    ]


def _ask(
    query: Callable[[], requests.Response],
    over: threading.Event,
    took: Callable[[float], None],
    unanswered: list[str],
) -> None:
    while not over.wait(GOOD_PAUSE_S):
        start = time.perf_counter()
        try:
            answer = query()
            if answer.status_code != 200 or not answer.json()["results"]:
                unanswered.append(f"{answer.url}: {answer.status_code} {answer.text[:300]}")
        except requests.RequestException as error:
            unanswered.append(repr(error))
        took(1000 * (time.perf_counter() - start))


# -- hostile traffic


@contextmanager
def _attackers(address: str, key: str, products: Sequence[str]) -> Iterator[Counter[tuple[str, int]]]:
    """Attacks while the context is open; afterwards it counts kinds and statuses.

    From a process that takes only what time the others leave: attackers have machines of their own.
    """
    context, seen = multiprocessing.get_context("spawn"), Counter[tuple[str, int]]()
    over, outcomes = context.Event(), context.SimpleQueue()
    process = context.Process(target=_attack, args=(address, key, products, over, outcomes))
    process.start()
    try:
        yield seen
    finally:
        over.set()
        seen.update(outcomes.get())
        process.join()


def _attack(address: str, key: str, products: Sequence[str], over: Any, outcomes: Any) -> None:
    os.nice(19)
    seen = Counter[tuple[str, int]]()
    threads = [threading.Thread(target=_act, args=(act, over, seen)) for act in _hostile(address, key, products)]
    _start(threads)
    for thread in threads:
        thread.join()
    outcomes.put(seen)


def _act(act: Act, over: Any, seen: Counter[tuple[str, int]]) -> None:
    """Acts again and again, until it is over."""
    while not over.wait(0.05):
        try:
            if outcome := act():
                seen[outcome] += 1
        except (OSError, requests.RequestException):
            seen["no answer", 0] += 1


def _hostile(address: str, key: str, products: Sequence[str]) -> Iterator[Act]:
    """Each kind of traffic that a client may send, with the key of another one."""
    host, _, port = address.removeprefix("http://").partition(":")
    chance, headers = random.Random(20260102), {"X-API-Key": key}
    large, similar = _png(5000), f"{address}/v1/products/{products[0]}/similar"

    def connect() -> socket.socket:
        return socket.create_connection((host, int(port)), 10)

    def get(kind: str, url: str, **params: Any) -> Act:
        return lambda: (kind, requests.get(url, params=params, headers=headers, timeout=60).status_code)

    def post(kind: str, path: str, **options: Any) -> tuple[str, int]:
        return kind, requests.post(f"{address}{path}", headers=headers, timeout=60, **options).status_code

    yield get("near duplicates", similar, near_duplicate=0.05, k=100, category="all")
    yield get("conditions that nothing meets", similar, where="no such=attribute", category="all")
    yield get("builds by name", similar, build="20250101T000000-nightly-000000")
    looks = {"looks": ["turned", "whole", "sharp"]}
    yield lambda: post("large photos", "/v1/search", files=[("image", large)] * 8, data=looks)
    yield lambda: post("broken photos", "/v1/search", files={"image": chance.randbytes(100_000)})
    yield lambda: post("no JSON", "/v1/search/vectors", data=chance.randbytes(2000))
    yield lambda: (
        "a wrong key",
        requests.get(f"{address}/v1/catalogue", headers={"X-API-Key": "x"}, timeout=60).status_code,
    )

    def unfinished(length: int, sent: bytes, pause_s: float, times: int) -> None:
        """A body that does not end; the connection is left after some time."""
        fields = f"X-API-Key: {key}\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}"
        with connect() as connection:
            connection.sendall(f"POST /v1/search HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n".encode() + PART)
            for _ in range(times):
                connection.sendall(sent)
                time.sleep(pause_s)

    for _ in range(4):
        yield lambda: unfinished(110_000_000, bytes(1_000_000), 0.05, 12)
        yield lambda: unfinished(100_000, b"x", 0.5, 10)

    def silent() -> None:
        with ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(connect())
            time.sleep(2)

    def noise() -> None:
        with connect() as connection:
            connection.sendall(chance.randbytes(20_000))
            connection.recv(1000)

    yield silent
    yield noise


def _operator(settings: Settings, products: Sequence[str]) -> Act:
    """Hides and shows a product, and puts two builds in service in turn, as people do."""
    hidden, builds = HiddenProducts(settings.root), Builds(settings.root)
    paths = itertools.cycle(reversed(builds.chain()))

    def act() -> None:
        hidden.hide(products[1:2])
        builds.rollback(next(paths))
        time.sleep(2)
        hidden.show(products[1:2])
        time.sleep(1)

    return act


def _png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (side, side)).save(file, "PNG")
    return file.getvalue()
