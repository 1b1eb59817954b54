"""What a query service takes under load: `python -m tests.bench.load ADDRESS SECONDS THREADS PRODUCTS`.

PRODUCTS is a file, a product_id a line. Prints answers a second, failures, the median and the 99th percentile in
milliseconds, and for each build that has answered how many vectors its answers say they come from.
"""

import json
import random
import re
import socket
import statistics
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote, urlsplit


def main(address: str, seconds: str, threads: str, products: str) -> None:
    """Asks what looks like a product, from many threads at once, each with a connection of its own."""
    names = Path(products).read_text(encoding="utf-8").splitlines()
    spans: list[float] = []
    failed: list[str] = []
    searched: defaultdict[str, set[int]] = defaultdict(set)
    ends = time.monotonic() + float(seconds)

    def ask(seed: int) -> None:
        rng, connection = random.Random(seed), _Connection(address)
        while time.monotonic() < ends:
            begun = time.perf_counter()
            try:
                status, body = connection.get(f"/v1/products/{quote(rng.choice(names), safe='')}/similar?category=all")
            except OSError as error:
                failed.append(f"{type(error).__name__}: {error}")
                return
            spans.append(time.perf_counter() - begun)
            if status != 200:
                failed.append(body.decode())
                continue
            answer = json.loads(body)
            searched[answer["build"]].add(answer["coverage"]["searched"])
        connection.close()

    askers = [threading.Thread(target=ask, args=(seed,)) for seed in range(int(threads))]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    p99 = statistics.quantiles(spans, n=100)[98]
    summary = {"rate": len(spans) / float(seconds), "p50_ms": 1000 * statistics.median(spans), "p99_ms": 1000 * p99}
    print(json.dumps(summary | {"failed": failed[:3], "searched": {build: sorted(n) for build, n in searched.items()}}))


class _Connection:
    """GET and no more, so that the client takes little of the time of the cores it shares with the server."""

    def __init__(self, address: str) -> None:
        place = urlsplit(address)
        self._host = place.netloc
        self._socket = socket.create_connection((place.hostname or "", place.port or 80), timeout=30)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        read = b""
        while b"\r\n\r\n" not in read:
            read += self._some()
        head, _, body = read.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        while len(body) < int(length[1] if length else 0):
            body += self._some()
        return int(head[9:12]), body

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _some(self) -> bytes:
        read = self._socket.recv(1 << 16)
        if not read:
            raise ConnectionError("the server has ended the connection")
        return read


if __name__ == "__main__":
    main(*sys.argv[1:])
