"""What a query service takes under load: `python -m tests.bench.load ADDRESS SECONDS THREADS PRODUCTS`.

PRODUCTS is a file, a product_id a line. Prints answers a second, failures, and the median in milliseconds.
"""

import http.client
import json
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote, urlsplit


def main(address: str, seconds: str, threads: str, products: str) -> None:
    """Asks what looks like a product, from many threads at once, each with a connection of its own."""
    names = Path(products).read_text(encoding="utf-8").splitlines()
    spans: list[float] = []
    failed: list[str] = []
    ends = time.monotonic() + float(seconds)

    def ask(seed: int) -> None:
        rng, connection = random.Random(seed), http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
        while time.monotonic() < ends:
            begun = time.perf_counter()
            connection.request("GET", f"/v1/products/{quote(rng.choice(names), safe='')}/similar?category=all")
            answer = connection.getresponse()
            told = answer.read()
            spans.append(time.perf_counter() - begun)
            if answer.status != 200:
                failed.append(told.decode())
        connection.close()

    askers = [threading.Thread(target=ask, args=(seed,)) for seed in range(int(threads))]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    told = {"rate": len(spans) / float(seconds), "failed": failed[:3], "p50_ms": 1000 * statistics.median(spans)}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
