"""The query service beside the smallest one that answers alike, in one run, loaded by wrk."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from likeness.core.settings import Settings

from .rows import row

ROUNDS, SECONDS, CLIENTS = 5, 4, (1, 8, 32)
SCRIPT = """
local asked, last = {}, 0
for line in io.lines(os.getenv("ASKED")) do
  local file = line:match("^POST (.*)$")
  if file then
    local body = io.open(file, "rb"):read("*a")
    local kind = {["Content-Type"] = "multipart/form-data; boundary=likeness"}
    asked[#asked + 1] = wrk.format("POST", "/v1/search", kind, body)
  else
    asked[#asked + 1] = wrk.format("GET", line)
  end
end
function request()
  last = last % #asked + 1
  return asked[last]
end
function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format('{"rate": %f, "p99_ms": %f, "failed": %d}', 1e6 * summary.requests / summary.duration,
    latency:percentile(99) / 1000, failed))
end
"""


def measure(settings: Settings, products: Sequence[str], forms: Sequence[bytes], scratch: Path, workers: int) -> None:
    """Rates of both for products and for photos, at some numbers of clients, round by round.

    Args:
        settings: a root of one category, whose keyed store holds the products.
        products: ids.
        forms: bodies of searches by a photo, whose boundary is `likeness`.
        scratch: a folder for files.
        workers: processes of each service.
    """
    if not shutil.which("wrk"):
        row("the service beside a minimal one", "not measured: install wrk (Debian, Ubuntu)", "")
        return
    (scratch / "load.lua").write_text(SCRIPT, encoding="utf-8")
    for number, form in enumerate(forms):
        (scratch / f"form-{number}").write_bytes(form)
    routes = {
        "product": [f"/v1/products/{name}/similar?category=all" for name in products],
        "photo": [f"POST {scratch}/form-{number}" for number in range(len(forms))],
    }
    of = f"{workers} process{'es' * (workers > 1)}"
    with _ours(settings, workers) as ours, _minimal(settings, workers) as minimal:
        for route, lines in routes.items():
            file = scratch / f"{route}s.txt"
            file.write_text("\n".join(lines), encoding="utf-8")
            for clients in CLIENTS:
                rounds = [[_load(address, file, clients) for address in (ours, minimal)] for _ in range(ROUNDS)]
                ratio = statistics.median(own["rate"] / other["rate"] for own, other in rounds)
                own, other = map(_middle, zip(*rounds, strict=True))
                goal = ">= 1.0" if route == "photo" else ">= 0.8" + "; p99 <= 100 ms" * (clients == 32)
                row(
                    f"{route}s a second, {clients} clients, {of}, beside a minimal service",
                    f"{ratio:.2f} ({own['rate']:.0f}/s, p99 {own['p99_ms']:.1f} ms, {own['failed']:.0f} failed; "
                    f"{other['rate']:.0f}/s, p99 {other['p99_ms']:.1f} ms)",
                    goal,
                )


def _middle(loads: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(load[name] for load in loads) for name in loads[0]}


def _load(address: str, file: Path, clients: int) -> dict[str, float]:
    command = ["wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s", "--timeout", "10s", "-s", str(file.parent / "load.lua")]
    done = subprocess.run(
        [*command, address], env=os.environ | {"ASKED": str(file)}, capture_output=True, text=True, check=True
    )
    line = re.search(r"^\{.*\}$", done.stdout, re.MULTILINE)
    assert line, done.stdout + done.stderr
    summary: dict[str, float] = json.loads(line[0])
    return summary


@contextmanager
def _ours(settings: Settings, workers: int) -> Iterator[str]:
    named = {"extract.cache": settings.extract.cache, "extract.weights": settings.extract.weights}
    sets = [part for key, value in named.items() for part in ("--set", f"{key}={value}")]
    command = ["-m", "likeness.cli", "serve", "--root", settings.root, "--port", "0", "--workers", str(workers), *sets]
    with _started(command, "stderr", workers) as address:
        yield address


@contextmanager
def _minimal(settings: Settings, workers: int) -> Iterator[str]:
    command = ["-m", "tests.bench.minimal_service", settings.root, settings.extract.cache, str(workers)]
    with _started(command, "stdout", workers) as address:
        yield address


@contextmanager
def _started(command: Sequence[str], stream: str, workers: int) -> Iterator[str]:
    """Where a service answers, in all its processes."""
    pipe: Any = {stream: subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *command], text=True, **pipe)
    try:
        lines = iter(getattr(process, stream))
        address = next(match[0] for line in lines if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
        threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
        answered, until = 0, time.monotonic() + 60
        while answered < 20 * workers and time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{address}/readyz", timeout=60).close()
                answered += 1
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(60)
