"""`likeness serve` as a process of its own."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import requests

from likeness.core.settings import Settings


@contextmanager
def serving(settings: Settings, *flags: str, read: bool = True) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """The process and the lines it has said, until it listens or ends; stopped at the end.

    `read`: what it says later is read, and dropped. A pipe that nobody reads fills.
    """
    command = [sys.executable, "-m", "likeness.cli", "serve", "--root", settings.root, "--port", "0", *flags]
    command += ["--set", f"extract.cache={settings.extract.cache}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line.strip())
            if line.startswith("listening"):
                break
        reader = threading.Thread(target=deque, args=(process.stderr if read else (), 0))
        reader.start()
        yield process, lines
    finally:
        process.kill()
        process.wait(30)
        reader.join()
        assert process.stderr
        process.stderr.close()


def test_it_says_where_it_listens_and_ends_when_told(published: Settings) -> None:
    with serving(published) as (process, lines):
        address = lines[-1].removeprefix("listening on ")
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        for _ in range(100):  # it listens; whether it answers already is another thing
            try:
                with urllib.request.urlopen(address + "readyz", timeout=10) as answer:
                    assert answer.status == 200
                break
            except OSError:
                time.sleep(0.1)
        listening = {c.laddr.ip for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)


def test_the_last_lines_of_a_log_are_written(published: Settings) -> None:
    with serving(published, read=False) as (process, lines), requests.Session() as session:
        address = lines[-1].removeprefix("listening on ")
        assert session.get(f"{address}healthz", headers={"X-Request-Id": "last"}, timeout=10).ok
        process.send_signal(signal.SIGTERM)
        assert process.stderr
        assert any('"request_id": "last"' in line for line in process.stderr)


def test_a_log_that_nobody_reads_stalls_nobody(published: Settings) -> None:
    with serving(published, read=False) as (_, lines), requests.Session() as session:
        address, start = lines[-1].removeprefix("listening on "), time.monotonic()
        session.headers["X-Request-Id"] = "x" * 64
        for _ in range(1000):  # some 200 bytes of log each; a pipe takes 64 kB
            assert session.get(f"{address}healthz", timeout=10).ok
        assert time.monotonic() - start < 30


def test_a_port_in_use_is_told(published: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving(published, "--port", port) as (process, lines):
            assert process.wait(60) == 2
    assert any(f"--port {port}" in line and "name another" in line for line in lines)


def test_half_of_a_certificate_is_told(published: Settings) -> None:
    with serving(published, "--tls-cert", "none.pem") as (process, lines):
        assert process.wait(60) == 2
    assert any("--tls-cert and --tls-key go together" in line for line in lines)
