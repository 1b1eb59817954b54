"""Requests that mean nothing, by the thousand: each gets an answer of the contract, and the service stays as it was."""

import io
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import psutil
import pytest
import requests
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode

from likeness.core.settings import Settings
from likeness.serving.http.error_responses import CODES

from .test_serve import serving

OPERATIONS = [
    "POST /v1/search",
    "POST /v1/search/vectors",
    "POST /v1/search/batch",
    "GET /v1/products/{product_id}/similar",
    "GET /v1/images/{image_id}",
    "GET /v1/catalogue",
]
TRICKS = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "\x00",
    "a" * 20_000,
    "'; DROP TABLE products",
    "%ff",
    ".",
]
WITHIN_S = 30


@pytest.fixture(scope="module")
def process(published: Settings) -> Iterator[tuple[psutil.Process, str]]:
    with serving(published) as (started, lines):
        address = lines[-1].removeprefix("listening on ").rstrip("/")
        requests.get(f"{address}/readyz", timeout=WITHIN_S).raise_for_status()
        yield psutil.Process(started.pid), address


def meant(answer: requests.Response, request: Any) -> None:
    """The answer is one of the contract: what was asked for, or a problem that is not the service's fault."""
    assert answer.status_code < 500, f"{request!r}: {answer.text[:500]}"
    if answer.status_code >= 400:
        body = answer.json()
        assert "application/problem+json" in answer.headers["content-type"], request
        assert CODES[body["code"]] == (answer.status_code, body["title"]), request
    assert b"/etc/passwd:" not in answer.content  # which may be a thumbnail
    assert b"root:x:" not in answer.content


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("label", OPERATIONS)
def test_whatever_is_asked_is_answered(process: tuple[psutil.Process, str], label: str, count: int) -> None:
    server, address = process
    schema = schemathesis.openapi.from_url(f"{address}/v1/openapi.json")
    (operation,) = (entry.ok() for entry in schema.get_all_operations() if entry.ok().label == label)
    cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    cases |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @hypothesis.settings(max_examples=count, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=cases)
    def ask(case: Any) -> None:
        meant(case.call(timeout=WITHIN_S), case)

    requests.get(f"{address}/v1/catalogue", timeout=WITHIN_S)
    before = server.memory_info().rss
    ask()
    assert server.memory_info().rss - before < 150e6


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_schemathesis_finds_nothing_with_all_checks(process: tuple[psutil.Process, str], tmp_path: Path) -> None:
    """As a person runs it; the contract declares the refusals of what is well formed and yet unknown."""
    _, address = process
    flags = ["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "30", "--seed", "1"]
    flags += ["--generation-database", "none", "--continue-on-failure", "--no-color"]
    program = [Path(sys.executable).with_name("st"), "--config-file", Path(__file__).parent / "schemathesis.toml"]
    command = [*program, "run", f"{address}/v1/openapi.json", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "9 selected / 9 total" in done.stdout


def _bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in some 100 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (30_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(30_000 * (30_000 // 8 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_broken_photos_are_told(process: tuple[psutil.Process, str], photo: bytes, count: int) -> None:
    """Photos cut off, with other bytes in them, or unpacking to what fits nowhere."""
    server, address = process
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file, "WEBP")
    broken = st.one_of(
        st.binary(max_size=200),
        st.sampled_from([photo, file.getvalue()]).flatmap(
            lambda whole: st.tuples(st.integers(0, len(whole)), st.binary(max_size=20)).map(
                lambda cut: whole[: cut[0]] + cut[1] + whole[cut[0] + len(cut[1]) :]
            )
        ),
        st.just(_bomb()),
    )

    @hypothesis.settings(max_examples=count, database=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(data=broken, box=st.sampled_from(["", "0,0,1,1", "1,1,0,0", "nan,0,1,1", "0,0,1e-9,1", "1,2"]))
    def ask(data: bytes, box: str) -> None:
        form = {"k": "3", "box": box}
        meant(requests.post(f"{address}/v1/search", files={"image": data}, data=form, timeout=WITHIN_S), (data, box))

    before = server.memory_info().rss
    ask()
    assert server.memory_info().rss - before < 150e6


@pytest.mark.parametrize("trick", TRICKS)
def test_names_lead_nowhere(process: tuple[psutil.Process, str], trick: str) -> None:
    _, address = process
    for path in (f"/v1/products/{trick}/similar", f"/v1/images/{trick}", f"/{trick}", f"/v1/{trick}"):
        try:
            answer = requests.get(address + path, timeout=WITHIN_S)
        except requests.exceptions.InvalidURL:
            continue
        if answer.status_code != 400 or "problem" in answer.headers["content-type"]:  # else it was no HTTP
            meant(answer, path)
        assert answer.status_code >= 400 or answer.url.removesuffix("/") in (address, f"{address}/v1")
    answer = requests.post(
        f"{address}/v1/search/vectors", json={"space": trick, "vectors": [[0.0]], "build": trick}, timeout=WITHIN_S
    )
    meant(answer, trick)
