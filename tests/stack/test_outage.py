"""A service whose dependencies go away under load: each query is answered in time, and says what it lacks."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from tests.serving.test_leaves import Process
from tests.serving.test_serve import serving

from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES

from .places import Place

pytestmark = [pytest.mark.stack, pytest.mark.kill, pytest.mark.timeout(600)]
CLIENTS, SECONDS, DEADLINE_MS = 16, 8.0, 1000
LATE_MS = 1000
"""What a machine adds that tests other things beside; `make bench` has the figure of one that does not."""


@dataclass(frozen=True)
class Seen:
    """One answer: when it came, in seconds from the start, how long it took, its status and what it lacks."""

    at_s: float
    took_ms: float
    status: int
    lacks: str


@pytest.fixture(scope="module")
def service(stack: Any, indexed: Place) -> Iterator[tuple[str, Process, dict[str, Any]]]:
    """Where a service on the stack answers, the leaf that holds its shard, and a query by a vector."""
    settings, rows = indexed.settings, TableReader(indexed.settings).read(FEATURES, ("space", "vector"))
    query = {"space": rows["space"][0].as_py(), "vectors": [rows["vector"][0].as_py()], "category": "all", "k": 20}
    with ExitStack() as started:
        leaf = Process(settings)
        started.callback(leaf.end)
        flags = ["--leaf", leaf.address]
        for text in (f"keyed.uri={settings.keyed.uri}", f"serve.deadline_ms={DEADLINE_MS}"):
            flags += ["--set", text]
        _, lines = started.enter_context(serving(settings, *flags))
        address = lines[-1].removeprefix("listening on ").rstrip("/")
        until(lambda: requests.get(f"{address}/readyz", timeout=60).ok)
        yield address, leaf, query


def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.1)


def flood(address: str, query: dict[str, Any]) -> list[Seen]:
    """What many clients see, each asking again and again."""
    seen, start = list[Seen](), time.monotonic()

    def ask() -> None:
        with requests.Session() as session:
            while (begun := time.monotonic()) - start < SECONDS:
                answer = session.post(f"{address}/v1/search/vectors", json=query, timeout=60)
                lacks = "; ".join(answer.json()["coverage"]["degraded"]) if answer.ok else answer.text
                now = time.monotonic()
                seen.append(Seen(now - start, 1000 * (now - begun), answer.status_code, lacks))

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return seen


def check_answers(seen: Sequence[Seen], after_s: float, lacks: str) -> None:
    """All have answered in time, and those after some seconds say what they lack."""
    assert {one.status for one in seen} == {200}, [one for one in seen if one.status != 200][:3]
    assert max(one.took_ms for one in seen) <= DEADLINE_MS + 100 + LATE_MS
    silent = [one for one in seen if one.at_s > after_s and lacks not in one.lacks]
    assert len(seen) > CLIENTS
    assert not silent, silent[:3]


def test_the_keyed_store_is_killed(stack: Any, service: tuple[str, Process, dict[str, Any]]) -> None:
    address, _, query = service
    for name in ("thrift1", "thrift2"):
        stack.stop(name, kill=True)
    check_answers(flood(address, query), 0, "facts")
    stack.up()


def test_a_leaf_is_paused(service: tuple[str, Process, dict[str, Any]]) -> None:
    address, leaf, query = service
    leaf.hang()
    try:
        check_answers(flood(address, query), 0, "leaf")
    finally:
        leaf.handle.resume()
    until(lambda: "leaf" not in "".join(one.lacks for one in flood(address, query)))


def test_hdfs_is_killed(stack: Any, service: tuple[str, Process, dict[str, Any]]) -> None:
    """Which products are hidden is read from there every second; the last list stays in force."""
    address, _, query = service
    stack.stop("namenode", kill=True)
    try:
        check_answers(flood(address, query), SECONDS - 1, "hidden")
    finally:
        stack.up()
