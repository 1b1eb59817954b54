"""`likeness serve --workers`: several processes answer as one would."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from likeness.core.settings import Settings
from likeness.serving.http.auth import new_key

from .test_serve import serving

WORKERS, RATE, AT_ONCE = 2, 10, 3


@pytest.fixture(scope="module")
def crew(published: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[psutil.Process, str, str]]:
    """The parent of some workers, their address, and a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    key = new_key(keys, "shop")
    flags = ["--workers", str(WORKERS)]
    for text in (f"serve.keys={keys}", f"serve.rate={RATE}", f"serve.at_once={AT_ONCE}", 'serve.metrics=["shop"]'):
        flags += ["--set", text]
    with serving(published, *flags) as (process, lines):
        address = lines[-1].removeprefix("listening on ").rstrip("/")
        until(lambda: requests.get(f"{address}/readyz", timeout=60).ok)
        yield psutil.Process(process.pid), address, key


def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.1)


def workers(parent: psutil.Process) -> list[psutil.Process]:
    """The processes that listen, but for the parent."""
    children = [child for child in parent.children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if "LISTEN" in {one.status for one in child.net_connections()}]


def figure(address: str, key: str, pattern: str) -> float:
    answer = requests.get(f"{address}/metrics", headers={"X-API-Key": key}, timeout=60)
    answer.raise_for_status()
    return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", answer.text, re.MULTILINE))


def test_a_rate_holds_for_all(crew: tuple[psutil.Process, str, str]) -> None:
    _, address, key = crew
    time.sleep(1.1)  # the bucket is full
    statuses, start = Counter[int](), time.monotonic()
    while (took := time.monotonic() - start) < 3:
        with requests.Session() as session:  # a connection each, which any worker may accept
            statuses[session.get(f"{address}/v1/catalogue", headers={"X-API-Key": key}, timeout=60).status_code] += 1
    assert statuses.keys() == {200, 429}
    assert 0.8 * RATE * took <= statuses[200] <= RATE * (took + 1) + 1


def test_whoever_is_asked_has_the_figures_of_all(crew: tuple[psutil.Process, str, str]) -> None:
    _, address, key = crew
    time.sleep(1.1)  # the bucket is full
    pattern = r'likeness_requests_total\{route="/healthz",status="200"\}'
    before = figure(address, key, pattern)
    for _ in range(40):
        requests.get(f"{address}/healthz", timeout=60)
    for _ in range(6):
        assert figure(address, key, pattern) == before + 40
        time.sleep(0.1)
    assert figure(address, key, "likeness_ready") == 1
    assert 0 <= figure(address, key, "likeness_builds_age_seconds") < 60


def test_a_killed_worker_is_replaced(crew: tuple[psutil.Process, str, str]) -> None:
    parent, address, key = crew
    before = workers(parent)
    assert len(before) == WORKERS
    before[0].send_signal(signal.SIGKILL)
    until(lambda: len(workers(parent)) == WORKERS and before[0] not in workers(parent))
    for _ in range(20):
        time.sleep(1.5 / RATE)
        answer = requests.get(f"{address}/v1/catalogue", headers={"X-API-Key": key}, timeout=60)
        assert answer.status_code == 200


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_all_end_with_their_parent(sent: signal.Signals, published: Settings, tmp_path: Path) -> None:
    with serving(published, "--workers", "2") as (process, lines):
        address = lines[-1].removeprefix("listening on ").rstrip("/")
        parent = psutil.Process(process.pid)
        until(lambda: requests.get(f"{address}/readyz", timeout=60).ok and len(workers(parent)) == 2)
        started = parent.children(recursive=True)
        process.send_signal(sent)
        assert process.wait(60) == (0 if sent == signal.SIGTERM else -sent)
        until(lambda: not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE])
