"""The query service: what HTTP, root and leaf add to a bare search, what batching wins, and how soon it is ready."""

import hashlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pyarrow as pa
import tests.conftest  # noqa: F401 - its profile of hypothesis
import torch
import torchvision
from tests.serving import soak, test_abuse

from likeness import storage
from likeness.core.settings import Index, Settings, load_settings
from likeness.index import distance
from likeness.index.build import BuildSpec, build_shard
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.index.shard import LoadedShard
from likeness.index.shard_plan import PlannedShard
from likeness.models.backbones import resolve
from likeness.serving.encoder import Encoder
from likeness.spark import jobs
from likeness.storage import Product
from likeness.storage.items import Item

from . import versus
from .rows import row
from .vectors import K, blocks

ROWS, ASKED, _SWAPS_S, _SOAK_S = 30_185, 300, 60, 3600
UNBATCHED = """
from likeness.serving.leaf import Leaf
from likeness.cli import main
Leaf.search = lambda leaf, query: leaf._search(query.vectors, query)
main()
"""


def measure(real: np.ndarray, photos: Sequence[Path], scratch: Path, full: bool) -> None:
    """All rows, on alexnet.fc6 with seeded weights: they measure time, not quality."""
    torch.manual_seed(20260102)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), scratch / "alexnet.pth")
    settings = Settings()
    weights = {"space": "alexnet.fc6", "weights": str(scratch / "alexnet.pth"), "cache": str(scratch / "cache")}
    settings = settings.model_copy(update={"extract": settings.extract.model_copy(update=weights)})
    quick = _published(settings, scratch / "quick", "auto", real, ROWS)
    _product(quick, scratch)
    _photo(quick, photos)
    exact = _published(settings, scratch / "exact", "flat", real, ROWS)
    _throughput(exact, scratch)
    small = _published(Settings(), scratch / "small", "auto", real, 3068)
    row("`likeness serve` to ready, 3,068 photos", f"{_start(small):.1f} s", "<= 5 s")
    for workers in (1, 2):
        forms = [_form(path.read_bytes()) for path in photos[:60]]
        versus.measure(small, list(_vectors(small)), forms, scratch, workers)
    _swaps(small, real, scratch)
    if full:
        _steady(quick, scratch)
        _abuse(small, photos[0])
        _soak(photos, scratch / "soak")
        large = _published(Settings(), scratch / "large", "auto", real, 1_000_000)
        row("`likeness serve` to ready, 1,000,000 x 1280", f"{_start(large):.1f} s", "<= 30 s")


def _product(settings: Settings, scratch: Path) -> None:
    """Product to answer through HTTP, root and a leaf of its own, one after the other."""
    manifest, vectors = Builds(settings.root).find(), _vectors(settings)
    shard = LoadedShard(manifest.shards[0], Path(settings.root, "builds", manifest.space), manifest.metric)
    names = list(vectors)[:ASKED]
    prepared = {name: distance.prepared(vectors[name][None], manifest.metric) for name in names}
    with ExitStack() as stack:
        leaf = stack.enter_context(_process(settings, "leaf", "--listen", "127.0.0.1:0"))
        ask = _asker(stack.enter_context(_process(settings, "serve", "--port", "0", "--leaf", leaf)))
        paths = [f"/v1/products/{name}/similar?k={K}&category=all" for name in names]
        asks = [lambda path=path: ask("GET", path) for path in paths]
        asleep = _median(asks)
        with _awake():
            served = _median(asks)
            bare = _median([lambda name=name: shard.searcher.nearest(prepared[name], K + 1) for name in names])
    row(
        f"product through HTTP, root and leaf, {ROWS} x {manifest.dim}, p50",
        f"{served:.2f} ms, bare search {bare:.2f} ms; {asleep:.2f} ms where cores sleep between requests",
        f"<= 2 x bare + 3 ms, {2 * bare + 3:.2f} ms here",
    )


def _photo(settings: Settings, photos: Sequence[Path]) -> None:
    """Photo to answer through HTTP, against decoding, network and search alone."""
    manifest, encoder = Builds(settings.root).find(), Encoder(settings, Builds(settings.root).find().space)
    shard = LoadedShard(manifest.shards[0], Path(settings.root, "builds", manifest.space), manifest.metric)
    files = [path.read_bytes() for path in photos[:60]]
    with _process(settings, "serve", "--port", "0") as address:
        ask = _asker(address)
        bodies = [_form(data) for data in files]
        kind = {"Content-Type": "multipart/form-data; boundary=likeness"}
        served = _median([lambda body=body: ask("POST", "/v1/search", body, kind) for body in bodies])
        bare = _median(
            [
                lambda data=data: shard.searcher.nearest(distance.prepared(encoder.encode(data), manifest.metric), K)
                for data in files
            ]
        )
    row(
        f"photo through HTTP, {ROWS} x {manifest.dim}, p50",
        f"{served:.1f} ms, decode + network + search {bare:.1f} ms",
        f"<= that + 5 ms, {bare + 5:.1f} ms here",
    )


def _throughput(settings: Settings, scratch: Path) -> None:
    """32 clients at once on an exact index, with and without batching."""
    with _process(settings, "serve", "--port", "0", "--set", "serve.rate=0") as address:
        batched = _load(settings, address, scratch, 15, 32)
    with _process(settings, "serve", "--port", "0", code=UNBATCHED) as address:
        alone = _load(settings, address, scratch, 15, 32)
    assert not batched["failed"], batched["failed"]
    row(
        f"32 clients, exact, {ROWS} x 4096",
        f"{batched['rate']:.0f}/s, {alone['rate']:.0f}/s unbatched: {batched['rate'] / alone['rate']:.1f} times",
        ">= 5 times",
    )


def _swaps(settings: Settings, real: np.ndarray, scratch: Path) -> None:
    """A root and two leaves while another build is published, and rolled back, ten times over."""
    _published(settings, Path(settings.root), "flat", real, 3000, "other")
    builds = Builds(settings.root)
    new, old = builds.chain()
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        leaves = [stack.enter_context(_process(settings, "leaf", "--listen", "127.0.0.1:0")) for _ in range(2)]
        named = [part for leaf in leaves for part in ("--leaf", leaf)]
        sets = ("--set", "serve.replicas=2", "--set", "serve.rate=0", "--set", "serve.deadline_ms=20000")
        address = stack.enter_context(_process(settings, "serve", "--port", "0", *named, *sets))
        processes = [_listener(one) for one in (address, *(f"grpc://{leaf}" for leaf in leaves))]

        def swap(times: int) -> list[int]:
            """Bytes of the three processes that are theirs alone after each pair of swaps."""
            memory = []
            for path in [old, new] * times:
                builds.rollback(path)
                while json.loads(urllib.request.urlopen(address + "/readyz").read())["build"] != path:
                    time.sleep(0.05)
                memory.append(sum(one.memory_full_info().uss for one in processes))
            return memory[1::2]

        load = pool.submit(_load, settings, address, scratch, _SWAPS_S, 8)
        memory = swap(12)
        summary = load.result()
        assert not summary["failed"], summary["failed"]
    mixed = sum(len(numbers) - 1 for numbers in summary["searched"].values())
    assert sorted(summary["searched"]) == ["bench", "other"]
    assert memory[-1] < 1.2 * memory[1], memory
    figure = f"0 of {summary['rate'] * _SWAPS_S:.0f} answers failed, {mixed} mixed, p99 {summary['p99_ms']:.0f} ms"
    row(
        "24 publishes and rollbacks under load, root and two leaves",
        f"{figure}; memory {memory[1] / 1e6:.0f} MB after four, {memory[-1] / 1e6:.0f} MB after all",
        "20: none failed, none mixed, memory back at its level",
    )


def _steady(settings: Settings, scratch: Path) -> None:
    """Memory before and after ten minutes of load."""
    with _process(settings, "serve", "--port", "0") as address:
        server = _listener(address)
        _load(settings, address, scratch, 30, 8)
        before = server.memory_full_info().uss
        summary = _load(settings, address, scratch, 600, 8)
        after = server.memory_full_info().uss
    figure = f"{(after - before) / 1e6:+.0f} MB of {before / 1e6:.0f} MB, {summary['rate'] * 600:.0f} answers"
    row("memory over ten minutes of load", figure, "flat")


def _abuse(settings: Settings, photo: Path) -> None:
    """Ten thousand requests that mean nothing, and two thousand broken photos: any wrong answer ends the bench."""
    with _process(settings, "serve", "--port", "0") as address:
        server = _listener(address)
        for count in (200, 2000):  # what is done for the first time takes memory once
            before = server.memory_full_info().uss
            for label in test_abuse.OPERATIONS:
                test_abuse.test_whatever_is_asked_is_answered((server, address), label, count)
            test_abuse.test_broken_photos_are_told((server, address), photo.read_bytes(), count)
        grown = server.memory_full_info().uss - before
    row(
        "10,000 malformed requests, 2,000 broken photos", f"none unanswered, no 500, {grown / 1e6:+.0f} MB", "no growth"
    )


def _soak(photos: Sequence[Path], folder: Path) -> None:
    """An hour of good queries beside hostile traffic of all kinds at once, on a root with two builds."""
    settings = load_settings(None, {"root": str(folder / "root"), "source.uri": str(folder / "photos")})
    for part in (photos[:100], photos[100:110]):
        for photo in part:
            place = folder / "photos" / photo.parent.name / photo.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, place)
        jobs.nightly(settings)
    seen = soak.soak(settings, photos[0].read_bytes(), _SOAK_S, folder)
    assert not seen.unanswered, seen.unanswered[:3]
    hour = seen.grown * 3600 / (_SOAK_S * 5 / 6 / 3)  # from the middle third of the samples to the last one
    row(
        "good queries beside hostile traffic, an hour",
        f"{len(seen.beside)} of {len(seen.beside)} answered, p99 {seen.slower:.1f} times the quiet one, "
        f"{hour / 1e6:+.0f} MB an hour",
        "all; <= 5 times; <= 20 MB",
    )


def _start(settings: Settings) -> float:
    """Seconds from the command to the first answer, of the second start: the first converts the network."""
    took = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        with _process(settings, "serve", "--port", "0") as address:
            urllib.request.urlopen(address + "/readyz").close()
            took = time.perf_counter() - begun
    return took


@contextmanager
def _process(settings: Settings, command: str, *flags: str, code: str = "") -> Iterator[str]:
    """`likeness COMMAND` as it answers: where it listens."""
    start = ["-c", code] if code else ["-m", "likeness.cli"]
    named = {"extract.cache": settings.extract.cache, "extract.weights": settings.extract.weights}
    sets = [part for key, value in named.items() for part in ("--set", f"{key}={value}")]
    process = subprocess.Popen(
        [sys.executable, *start, command, "--root", settings.root, *flags, *sets], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if "listening on " in line:
                said = [line]
                break
        else:
            raise AssertionError("".join(said))
        # a pipe that nobody reads fills, and whoever writes to it waits
        threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True).start()
        yield said[0].partition("listening on ")[2].strip().rstrip("/")
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def _awake() -> Iterator[None]:
    """Cores that do not fall asleep: each has something to do that gives way to everything else.

    A virtual core that has to be woken for each message of a single client is what would be measured.
    """
    busy = [
        subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"])
        for _ in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _asker(address: str) -> Callable[..., bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)

    def ask(method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content

    return ask


def _form(photo: bytes) -> bytes:
    head = b'--likeness\r\nContent-Disposition: form-data; name="image"; filename="photo"\r\n\r\n'
    rest = b'\r\n--likeness\r\nContent-Disposition: form-data; name="category"\r\n\r\nall\r\n--likeness--\r\n'
    return head + photo + rest


def _load(settings: Settings, address: str, scratch: Path, seconds: int, clients: int) -> dict[str, Any]:
    """From two processes, so that the clients are not what is measured."""
    products = scratch / "products.txt"
    products.write_text("\n".join(list(_vectors(settings))[:2000]), encoding="utf-8")
    command = [sys.executable, "-m", "tests.bench.load", address, str(seconds), str(clients // 2), str(products)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    summaries = [json.loads(one.communicate()[0]) for one in both]
    builds = {name for one in summaries for name in one["searched"]}
    return {
        "rate": sum(one["rate"] for one in summaries),
        "failed": [text for one in summaries for text in one["failed"]],
        "p99_ms": max(one["p99_ms"] for one in summaries),
        "searched": {name: {n for one in summaries for n in one["searched"].get(name, ())} for name in builds},
    }


def _listener(address: str) -> psutil.Process:
    """The process that listens at an address."""
    port, user = urlsplit(address).port, os.getuid()

    def listens(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            return process.uids().real == user and any(
                one.status == "LISTEN" and one.laddr.port == port for one in process.net_connections("inet")
            )
        return False

    return next(process for process in psutil.process_iter() if listens(process))


def _median(work: Sequence[Callable[[], object]]) -> float:
    """Milliseconds; all is done once before, to warm up."""
    for one in work:
        one()
    spans = []
    for one in work:
        begun = time.perf_counter()
        one()
        spans.append(1000 * (time.perf_counter() - begun))
    return statistics.median(spans)


def _vectors(settings: Settings) -> dict[str, np.ndarray]:
    """Some vectors of the keyed store by product; a photo has the name of its product here."""
    manifest, store = Builds(settings.root).find(), storage.keyed(storage.keyed_uri("", settings.root))
    try:
        names = [_key(number) for number in range(2000)]
        rows = store.get_vectors(manifest.space, list(map(Item, names)))
        return {item.image_id: vector for item, vector in rows.items()}
    finally:
        store.close()


def _key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def _published(
    settings: Settings, root: Path, kind: str, real: np.ndarray, rows: int, build: str = "bench"
) -> Settings:
    """A root of one category, built as the index job builds a shard; the first vectors are in the keyed store."""
    settings = settings.model_copy(update={"root": str(root)})
    space = resolve(settings.extract.space, settings.extract.weights, settings.extract.cache)
    builds, store = Builds(settings.root), storage.keyed(storage.keyed_uri("", settings.root), create=True)
    keys = [_key(number) for number in range(rows)]
    place = {number: row for row, number in enumerate(sorted(range(rows), key=lambda number: keys[number]))}
    spooled = np.lib.format.open_memmap(root.with_suffix(".npy"), "w+", np.float32, (rows, space.dim))
    start = 0
    for block in blocks(real, rows, space.dim, 1):
        numbers = range(start, start + len(block))
        spooled[[place[number] for number in numbers]] = block
        if start < 2000:
            some = [(keys[number], vector) for number, vector in zip(numbers, block, strict=True) if number < 2000]
            store.put_vectors(space.id, ((Item(key), vector) for key, vector in some))
            store.put_products([Product(key, "all", {}, (key,)) for key, _ in some])
        start += len(block)
    store.close()
    keys.sort()

    def batches() -> Iterator[pa.RecordBatch]:
        for begin in range(0, rows, 256):
            few = keys[begin : begin + 256]
            listed = [[{"category": "all", "uri": f"file:///{key}", "products": [key]}] for key in few]
            vectors = [vector.tobytes() for vector in spooled[begin : begin + 256]]
            yield pa.RecordBatch.from_pydict({"image_id": few, "shown": listed, "vector": vectors})

    index = Index(kind=kind)
    folder = f"{builds.folder}/{space.id}"
    record = build_shard(PlannedShard(0, ("all",)), batches(), BuildSpec(folder, build, space.id, space.dim, index))
    counts = dict.fromkeys(("images", "products", "vectors"), rows)
    names = {"build": build, "run_id": build, "created": "", "space": space.id, "kind": kind, "metric": "cosine"}
    manifest = Manifest(**names, **counts, dim=space.dim, snapshots={}, index_settings={}, shards=[record])
    builds.write(manifest)
    builds.publish(manifest, 2)
    root.with_suffix(".npy").unlink()
    return settings
