"""`make bench`: every figure of the nightly pipeline and of the Hadoop stack, measured in one run.

LIKENESS_CLOTHING names the folder of the full clothing data (train/, validation/, catalogue.csv); without it
the bundled sample is used and the quality row is left out. LIKENESS_BENCH_PHOTOS (default 30185) sets the size.
LIKENESS_BENCH_FC6 is the weights file of a distilled model, whose fc6 then gives the 4096-d vectors of index and stack.
LIKENESS_BENCH chooses `nightly`, `extract`, `memory`, `costs`, `train`, `index`, `night`, `serve`, `leaves`, `stack`,
`gpu` or `versions`; by default all but the last two are measured, the stack where Maven is installed. `versions`
measures speed against an earlier version, whose checkout LIKENESS_BENCH_EARLIER names. LIKENESS_BENCH_PLOTS is the
folder of plots.
`make bench-full` measures indexes of a million vectors as well, in 45 GB of disk.
LIKENESS_PEERS and LIKENESS_AUTOFAISS name a Python each that has the peers, which are installed into new environments
otherwise.
"""

import csv
import datetime
import functools
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from likeness.core.settings import Settings, load_settings
from likeness.index.builds import Builds
from likeness.serving.encoder import Encoder
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.spark import jobs
from likeness.spark.run import Run
from likeness.spark.session import open_session
from likeness.spark.stages.extract import extract

from . import bare, costs, extraction, gpu, indexes, leaves, memory, nights, serving, stack, training, versions
from .photos import variant, variants
from .rows import ROWS, row

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "deploy" / "sample"
COUNT = int(os.environ.get("LIKENESS_BENCH_PHOTOS", "30185"))


def main() -> None:
    """Runs all and prints the table as Markdown."""
    clothing, chosen = os.environ.get("LIKENESS_CLOTHING"), os.environ.get("LIKENESS_BENCH", "")
    full = Path(clothing) if clothing else None
    train = full / "train" if full else SAMPLE
    with tempfile.TemporaryDirectory(prefix="likeness-bench-") as scratch:
        work = Path(os.environ.get("LIKENESS_BENCH_DIR", scratch))
        if chosen in ("", "nightly"):
            no_change(Path(scratch))
            open_session(Settings(), "bench")
            if full:
                quality(full, Path(scratch))
            large(
                variants(train, work / f"photos-{COUNT}", COUNT), full / "validation" if full else SAMPLE, Path(scratch)
            )
        if chosen in ("", "extract"):
            open_session(Settings(), "bench")
            extraction.measure(train, SAMPLE, Path(scratch), work)
        if chosen in ("", "memory"):
            open_session(Settings(), "bench")
            memory.measure(train, Path(scratch), Path(os.environ.get("LIKENESS_BENCH_PLOTS", tempfile.gettempdir())))
        if chosen in ("", "costs") and full:
            costs.measure(full, Path(scratch))
        if chosen in ("", "train") and full:
            open_session(Settings(), "bench")
            training.measure(full, Path(scratch))
        if chosen == "gpu":
            open_session(Settings(), "bench")
            gpu.measure(train, Path(scratch))
        if chosen == "versions":
            versions.measure(Path(os.environ["LIKENESS_BENCH_EARLIER"]), train, Path(scratch))
        if chosen in ("", "index"):
            indexes.measure(sorted(train.rglob("*.jpg")), Path(scratch), "LIKENESS_BENCH_FULL" in os.environ)
        if chosen in ("", "night"):
            open_session(Settings(), "bench")
            nights.measure(
                indexes.of_photos(sorted(train.rglob("*.jpg"))), Path(scratch), "LIKENESS_BENCH_FULL" in os.environ
            )
        if chosen in ("", "serve"):
            sorted_photos = sorted(train.rglob("*.jpg"))
            serving.measure(
                indexes.of_photos(sorted_photos), sorted_photos, Path(scratch), "LIKENESS_BENCH_FULL" in os.environ
            )
        if chosen in ("", "leaves"):
            leaves.measure(Path(scratch))
        if chosen == "stack" or (not chosen and shutil.which("mvn")):
            stack.measure(variants(train, work / f"photos-{stack.PHOTOS}", stack.PHOTOS), Path(scratch))
    print(f"\n{datetime.date.today()}, {os.cpu_count()} cores, {_processor()}, `make bench`\n")
    print("| what | figure | goal |\n| --- | --- | --- |")
    for cells in ROWS:
        print("| " + " | ".join(cells) + " |")


def no_change(scratch: Path) -> None:
    """A nightly run that finds nothing new, against the start of a bare Spark session."""
    command = [sys.executable, "jobs/nightly.py", "--root", str(scratch / "sample")]
    start = "from likeness.core.settings import Settings; from likeness.spark.session import open_session; "
    _timed(command)
    bare_start = statistics.median(
        _timed([sys.executable, "-c", start + "open_session(Settings(), 'x').range(1).count()"]) for _ in range(3)
    )
    again = statistics.median(_timed(command) for _ in range(3))
    row("nightly without changes / Spark's start", f"{again / bare_start:.2f} ({again:.1f} s / {bare_start:.1f} s)", "")


def quality(full: Path, scratch: Path) -> None:
    """P@k of the validation photos over all categories of the training photos."""
    settings = _settings(full / "train", scratch / "clothing")
    jobs.nightly(settings)
    with (full / "catalogue.csv").open(encoding="utf-8") as file:
        queries = [item for item in csv.DictReader(file) if item["split"] == "validation"]
    encoder, root, space = _service(settings)
    hits = []
    for item in queries:
        answer = root.search(encoder.encode((full / item["image"]).read_bytes()), space, SearchParams(10, "all"))
        hits.append([result.category == item["category"] for result in answer.results])
    for k, goal in ((1, ">= 0.79"), (5, ">= 0.74"), (10, "")):
        row(f"P@{k}, {len(queries)} validation photos", f"{statistics.mean(sum(h[:k]) / k for h in hits):.3f}", goal)


def large(photos: Path, validation: Path, scratch: Path) -> None:
    """Extraction through Spark against the bare loop, then five photos in, ranked results out."""
    settings = _settings(photos, scratch / "large")
    jobs.ingest_job(settings)
    chosen = random.Random(3).sample(sorted(photos.rglob("*.jpg")), min(COUNT, 2000))
    workers = os.cpu_count() or 1
    before = bare.rate(chosen, settings, workers)
    jobs.nightly(_settings(SAMPLE, scratch / "warm"))  # after start-up: the bare loop has loaded its network as well
    with Run("extract", settings, ("extract",)) as run:
        facts = extract(run)
    after = bare.rate(chosen, settings, workers)
    through, ceiling = facts.extracted / facts.seconds, (before + after) / 2
    figure = (
        f"{through / ceiling:.2f} ({through:.0f}/s of {ceiling:.0f}/s; bare {before:.0f} before, {after:.0f} after)"
    )
    row(f"extraction stage / bare loop, {facts.extracted} photos", figure, ">= 0.85")
    jobs.nightly(settings)
    encoder, root, space = _service(settings)
    pool = sorted(validation.rglob("*.jpg"))
    queries = [path.read_bytes() for path in pool[:: len(pool) // 5][:5]]
    queries = [variant(photo, random.Random(n)) for n, photo in enumerate(queries)]
    vectors = [encoder.encode(photo)[0] for photo in queries]
    manifest = Builds(settings.root).find()
    for category in ("all", "auto"):
        assert _answer(queries, encoder, root, space, category) == 50
        whole = _median(functools.partial(_answer, queries, encoder, root, space, category))
        alone = _median(functools.partial(_search, vectors, root, space, category))
        name = f"5 photos in, ranked results out, {manifest.vectors} vectors of {manifest.dim}, category={category}"
        row(name, f"{whole:.3f} s; search alone {alone:.3f} s", "the seed: 7.59, one run, unit not given")


def _answer(queries: list[bytes], encoder: Encoder, root: Root, space: str, category: str) -> int:
    return _search([encoder.encode(photo)[0] for photo in queries], root, space, category)


def _search(vectors: list[Any], root: Root, space: str, category: str) -> int:
    return sum(len(root.search(vector, space, SearchParams(10, category)).results) for vector in vectors)


def _median(work: Callable[[], Any]) -> float:
    """Median of five, after one that is not counted."""
    spans = []
    for _ in range(6):
        begun = time.perf_counter()
        work()
        spans.append(time.perf_counter() - begun)
    return statistics.median(spans[1:])


def _service(settings: Settings) -> tuple[Encoder, Root, str]:
    builds = Builds(settings.root)
    manifest = builds.find()
    return Encoder(settings, manifest.space), Root(manifest, Leaf(builds, manifest)), manifest.space


def _settings(source: Path, root: Path) -> Settings:
    return load_settings(None, {"source.uri": str(source), "root": str(root)}, ("gates.max_failure_rate=1",))


def _timed(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
