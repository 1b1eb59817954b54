"""What the Hadoop stack costs: small files against one tar on HDFS, and loads into HBase against a bare loop."""

import statistics
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import happybase
import numpy as np
from tests.runs import seed_features
from tests.stack import local

from likeness import storage
from likeness.core import uris
from likeness.core.settings import Settings, load_settings
from likeness.spark import jobs
from likeness.spark.run import Run
from likeness.spark.stages.load import load
from likeness.storage.hbase_layout import FAMILIES

from .indexes import of_photos
from .rows import row
from .vectors import blocks

PHOTOS = 3068
VECTORS, DIM, BATCH, ROUNDS = 48_000, 4096, 200, 5


def measure(photos: Path, scratch: Path) -> None:
    """Every row, on a stack of its own."""
    with local.running() as stack:
        loads(stack, np.concatenate(list(blocks(of_photos(sorted(photos.rglob("*.jpg"))), VECTORS, DIM, 1))), scratch)
        small_files(stack, photos, scratch)


def small_files(stack: Any, photos: Path, scratch: Path) -> None:
    """The same photos as single files and as one tar: what it takes to ingest each, and what each costs HDFS."""
    paths = sorted(photos.rglob("*.jpg"))
    single, packed = f"{stack.hdfs}/single", f"{stack.hdfs}/packed.tar"
    files = storage.files(single)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: files.upload(str(path), uris.join(single, str(path.relative_to(photos)))), paths))
    with tarfile.open(scratch / "packed.tar", "w") as tar:
        tar.add(photos, ".")
    files.upload(str(scratch / "packed.tar"), packed)
    rates: dict[str, list[float]] = {single: [], packed: []}
    for turn in range(ROUNDS + 1):
        for number, source in enumerate(rates):
            settings = _settings(scratch / f"ingest-{turn}-{number}", source)
            begun = time.perf_counter()
            jobs.ingest_job(settings)
            if turn:  # the first is not counted
                rates[source].append(len(paths) / (time.perf_counter() - begun))
    one, other = (statistics.median(rates[source]) for source in rates)
    row(
        f"ingest from HDFS: {len(paths)} single files / one tar",
        f"{one / other:.2f} ({one:.0f}/s / {other:.0f}/s)",
        "packing saves the rest",
    )
    row("names and blocks in the NameNode: single files / one tar", f"{2 * len(paths)} / 2", "150 bytes of heap each")


def loads(stack: Any, rows: np.ndarray, scratch: Path) -> None:
    """The load stage with one and with several connections against a bare happybase loop, in turns.

    Each starts on a store with nothing to do: what the one before left to flush and compact is dropped.
    """
    vectors = seed_features(_settings(scratch / "features"), rows)
    rates: dict[str, list[float]] = {"bare": [], "1": [], "4": []}
    for turn in range(ROUNDS):
        for kind, measured in sorted(rates.items(), reverse=bool(turn % 2)):
            name = f"bench{turn}{kind}"
            keyed = f"{stack.hbase}/{name}?writers={kind if kind != 'bare' else 1}"
            storage.keyed(keyed, create=True).close()
            took = _bare(stack, name, vectors) if kind == "bare" else _load(scratch, keyed)
            measured.append(VECTORS / took)
            _drop(stack, name)
    bare, one, several = (statistics.median(measured) for measured in rates.values())
    size = f"{VECTORS} vectors of {DIM}"
    row(
        f"load / bare happybase loop, one connection, {size}",
        f"{one / bare:.2f} ({one:.0f}/s / {bare:.0f}/s)",
        ">= 0.8",
    )
    row("load with four connections / bare loop", f"{several / bare:.2f} ({several:.0f}/s)", "more than with one")


def _drop(stack: Any, name: str) -> None:
    connection = _connection(stack)
    for table in FAMILIES:
        connection.delete_table(f"{name}_{table}", disable=True)
    connection.close()


def _connection(stack: Any) -> happybase.Connection:
    host, _, port = stack.address("thrift1").partition(":")
    return happybase.Connection(host, int(port), timeout=60_000)


def _bare(stack: Any, name: str, vectors: dict[str, np.ndarray]) -> float:
    connection = _connection(stack)
    begun = time.perf_counter()
    with connection.table(f"{name}_images").batch(batch_size=BATCH) as batch:
        for key, vector in vectors.items():
            batch.put(key.encode(), {b"v:bare": vector.tobytes()})
    took = time.perf_counter() - begun
    connection.close()
    return took


def _load(scratch: Path, keyed: str) -> float:
    settings = _settings(scratch / "features", keyed=keyed)
    with Run("load", settings, ("load",)) as run:
        load(run)
        facts = run.facts.load
    assert facts
    assert facts.vectors == VECTORS
    return facts.seconds


def _settings(root: Path, source: str = "", keyed: str = "") -> Settings:
    return load_settings(None, {"root": str(root), "source.uri": source}, [f"keyed.uri={keyed}"])
