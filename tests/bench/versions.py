"""This version against an earlier one, a checkout of it: nightly, index and serve in turn, the ratio pair by pair."""

import functools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from .rows import row

PROJECT = Path(__file__).parents[2]
PAIRS, QUERIES, CLIENTS = 9, 400, 4


def measure(earlier: Path, photos: Path, scratch: Path) -> None:
    """Ratios of speed, this version's / the earlier one's; each pair starts with the other one.

    `earlier` needs no environment of its own, its libraries are those of this one; `photos` are indexed and queried.
    """
    versions = [Version(PROJECT, scratch / "this", photos), Version(earlier, scratch / "earlier", photos)]
    steps: list[tuple[str, Callable[[Version], float]]] = [
        ("nightly, the sample into an empty root", Version.nightly),
        (f"index, {len(versions[0].queries)} photos with features", Version.index),
        (f"serve, {QUERIES} photos of {CLIENTS} clients", Version.serve),
    ]
    for name, step in steps:
        for version in versions:  # not counted
            step(version)
        ratios = []
        for pair in range(PAIRS):
            seconds = {version: step(version) for version in versions[:: -1 if pair % 2 else 1]}
            ratios.append(seconds[versions[1]] / seconds[versions[0]])
        figure = f"{statistics.median(ratios):.3f} ({', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))})"
        row(f"{name}: this version / {earlier.name}, {PAIRS} pairs", figure, ">= 0.95")


class Version:
    """A checkout, with a root of its own."""

    def __init__(self, project: Path, folder: Path, photos: Path) -> None:
        self.project, self.folder, self.photos = project, folder, photos
        self.queries = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]
        self.folder.mkdir()

    def nightly(self) -> float:
        """Seconds of `nightly` with an empty root, converted networks kept."""
        shutil.rmtree(self.folder / "sample", ignore_errors=True)
        return self._timed(["./spark-submit.sh", "nightly", "--root", str(self.folder / "sample"), *self._cache])

    def index(self) -> float:
        """Seconds of `index` with a root that has features and no build."""
        shutil.rmtree(self.folder / "root", ignore_errors=True)
        shutil.copytree(self._features, self.folder / "root")
        return self._timed(["./spark-submit.sh", "index", "--root", str(self.folder / "root"), *self._cache])

    def serve(self) -> float:
        """Seconds of the queries, after a quarter of them that are not counted."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "likeness.cli", "serve", "--root", str(self._published)]
        command += ["--port", str(port), *self._cache]
        with subprocess.Popen(command, cwd=self.project, env=self._environment, stdout=subprocess.DEVNULL) as service:
            try:
                address = f"http://127.0.0.1:{port}"
                _wait(f"{address}/readyz")
                queries = (self.queries * -(-QUERIES // len(self.queries)))[:QUERIES]
                with ThreadPoolExecutor(CLIENTS) as clients:
                    ask = functools.partial(_search, f"{address}/v1/search")
                    list(clients.map(ask, queries[: QUERIES // 4]))
                    begun = time.perf_counter()
                    list(clients.map(ask, queries))
                    return time.perf_counter() - begun
            finally:
                service.terminate()

    @functools.cached_property
    def _features(self) -> Path:
        root = self.folder / "features"
        for job in ("ingest", "extract", "load"):
            flags = ["--source", str(self.photos)] if job == "ingest" else []
            self._timed(["./spark-submit.sh", job, "--root", str(root), *flags, *self._cache])
        return root

    @functools.cached_property
    def _published(self) -> Path:
        root = self.folder / "published"
        shutil.copytree(self._features, root)
        for job in ("index", "publish"):
            self._timed(["./spark-submit.sh", job, "--root", str(root), *self._cache])
        return root

    @property
    def _cache(self) -> Sequence[str]:
        return ["--set", f"extract.cache={self.folder / 'cache'}"]

    @property
    def _environment(self) -> dict[str, str]:
        iceberg = ",".join(map(str, Path(sys.prefix, "jars").glob("*.jar")))
        jars = {"LIKENESS_PYTHON": sys.executable, "LIKENESS_JARS": os.environ.get("LIKENESS_JARS", iceberg)}
        return {**os.environ, **jars, "PYTHONPATH": str(self.project / "lib")}

    def _timed(self, command: list[str]) -> float:
        begun = time.perf_counter()
        subprocess.run(
            command, cwd=self.project, env=self._environment, check=True, stdout=subprocess.DEVNULL, timeout=900
        )
        return time.perf_counter() - begun


def _wait(address: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)


def _search(address: str, photo: bytes) -> None:
    answer = requests.post(address, files={"image": photo}, data={"category": "all"}, timeout=30)
    answer.raise_for_status()
