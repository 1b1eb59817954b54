"""Extraction on a GPU against its own ceilings; says that nothing is measured where there is none."""

import os
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from likeness.core.settings import load_settings
from likeness.models.backbones import registry
from likeness.ops import hardware_profile
from likeness.spark import jobs
from likeness.spark.run import Run
from likeness.spark.stages.extract import extract
from likeness.storage.tables import FEATURES

from .extraction import seeded
from .photos import variants
from .rows import row

_SPACE, _COUNT, _PASSES = "alexnet.fc6", 30_000, 3
_GOAL = ">= 0.9 of the smaller ceiling"


def measure(photos: Path, scratch: Path) -> None:
    """The stage's photos a second over the smaller ceiling of decoding and network, and how busy the GPU is."""
    if not torch.cuda.is_available():
        row(f"{_SPACE} on a GPU", "not measured: this machine has none", _GOAL)
        return
    source = variants(photos, scratch / f"photos-{_COUNT}", _COUNT)
    weights = seeded(registry()["alexnet"], scratch)
    sets = [f"extract.cache={scratch / 'cache'}", *([f"extract.weights={weights}"] if weights else [])]
    flags = {"source.uri": str(source), "root": str(scratch / "gpu"), "extract.space": _SPACE}
    limits = hardware_profile.profile(load_settings(None, flags, sets))
    settings = load_settings(None, flags, [*sets, *(f"{name}={value}" for name, value in limits.settings.items())])
    jobs.ingest_job(settings)
    rates, busy = [], list[float]()
    for _ in range(_PASSES):
        with Run("extract", settings, ("extract",)) as run:
            run.tables.spark.sql(f"DELETE FROM {run.tables.name(FEATURES)} WHERE space = '{run.space.id}'")
            with _busy(busy):
                facts = extract(run)
        rates.append(facts.extracted / facts.seconds)
    rate, ceiling = statistics.median(rates), min(limits.decode, limits.model)
    decoder = "nvJPEG decodes" if limits.decoder == "network" else f"{os.cpu_count()} cores decode"
    each = f"{rate:.0f}/s; {decoder} {limits.decode:.0f}/s, the network does {limits.model:.0f}/s"
    row(f"{_SPACE} on {torch.cuda.get_device_name()}", f"{rate / ceiling:.2f} ({each})", _GOAL)
    row("share of the time in which it works", f"{statistics.median(busy):.2f}", "")


@contextmanager
def _busy(shares: list[float]) -> Iterator[None]:
    """Adds the share of the body's time in which the GPU computed for any process.

    A run adds up what its workers say of themselves, which is too much where several share a GPU.
    """
    command = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sampler:
        try:
            yield
        finally:
            sampler.terminate()
        shares.append(statistics.mean(map(int, sampler.communicate()[0].split())) / 100)
