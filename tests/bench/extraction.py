"""Extraction through Spark against the ceiling of the machine, a plain torch loop, and pyspark's own way."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql.types import ArrayType, FloatType

from likeness.core.errors import ServiceError
from likeness.core.settings import Settings, load_settings
from likeness.models.backbones import Backbone, registry
from likeness.ops.hardware_profile import profile
from likeness.spark import jobs
from likeness.spark.run import Run
from likeness.spark.session import open_session
from likeness.spark.stages.extract import extract
from likeness.storage.tables import FEATURES

from . import bare
from .photos import variants
from .rows import row

_PASSES, _WARM, _PEER, _COUNT = 5, 2, 600, 30_185
SPACES = (
    ("efficientnet_lite0.pool", _COUNT, 4800, 0.95),
    ("alexnet.fc6", _COUNT, 4800, 0.90),
    ("vgg16.fc6", 1200, 400, 0.95),
)
"""Space, photos of the stage and of the bare loop, and the share of the ceiling that is asked for."""


def measure(photos: Path, sample: Path, scratch: Path, work: Path) -> None:
    """All rows, of photos kept in `work`; networks whose weights cannot be had have seeded noise: as much work."""
    rates = {}
    for space, count, few, goal in SPACES:
        source = variants(photos, work / f"photos-{count}", count)
        settings = _settings(source, scratch / f"{space}-{count}", space, scratch)
        chosen = profile(settings)
        precision = chosen.settings.get("extract.precision", settings.extract.precision)
        row(f"{space}: precision that `likeness profile` chooses", f"{precision} (cosine {chosen.parity:.5f})", "")
        settings = settings.model_copy(update={"extract": settings.extract.model_copy(update={"precision": precision})})
        rates[space] = _stage(settings, sample, scratch, few, goal)
    paths = sorted((work / f"photos-{_COUNT}").rglob("*.jpg"))[:_PEER]
    weights = str(scratch / "alexnet.pth")
    loop = _plain(paths, weights)
    row("alexnet.fc6 through Spark / a DataLoader with torch in float32", _ratio(rates["alexnet.fc6"], loop), ">= 2.3")
    own = _predict_batch_udf(paths, weights)
    row("alexnet.fc6 through Spark / pyspark's predict_batch_udf", _ratio(rates["alexnet.fc6"], own), ">= 5")


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.1f} ({ours:.0f}/s, {theirs:.0f}/s)"


def _stage(settings: Settings, sample: Path, scratch: Path, few: int, goal: float) -> float:
    """Photos a second of the stage, commit included, each pass between two of the bare loop; the first do not count."""
    workers = os.cpu_count() or 1
    space = settings.extract.space
    jobs.ingest_job(settings)
    warm = settings.model_copy(update={"root": str(scratch / f"warm-{space}")})
    jobs.nightly(warm.model_copy(update={"source": settings.source.model_copy(update={"uri": str(sample)})}))
    paths = sorted(Path(settings.source.uri).rglob("*.jpg"))
    chosen = paths[:: len(paths) // few]
    shares, rates, before = [], [], bare.rate(chosen, settings, workers)
    for _ in range(_PASSES):
        with Run("extract", settings, ("extract",)) as run:
            run.tables.spark.sql(f"DELETE FROM {run.tables.name(FEATURES)} WHERE space = '{run.space.id}'")
            facts = extract(run)
        after = bare.rate(chosen, settings, workers)
        rates.append(facts.extracted / facts.seconds)
        shares.append(rates[-1] / ((before + after) / 2))
        before = after
    shares, rates = shares[_WARM:], rates[_WARM:]
    each = f"{statistics.median(rates):.0f}/s, {facts.extracted} photos, {len(shares)} passes"
    figure = f"{statistics.median(shares):.2f} ({each})"
    row(f"{space} through Spark, commit included / bare loop", figure, f">= {goal:.2f}")
    return statistics.median(rates)


def seeded(spec: Backbone, scratch: Path) -> Path | None:
    """A file of noise for a network whose weights cannot be had here; None where they can, or there are none."""
    try:
        if spec.weights:
            spec.weights()
        return None
    except ServiceError:
        path = scratch / f"{spec.name}.pth"
        if not path.exists():
            torch.manual_seed(20260102)
            torch.save(spec.network()[0].state_dict(), path)
        return path


def _settings(source: Path, root: Path, space: str, scratch: Path) -> Settings:
    sets = ["gates.max_failure_rate=1", f"extract.space={space}", f"extract.cache={scratch / 'cache'}"]
    weights = seeded(registry()[space.partition(".")[0]], scratch)
    if weights:
        sets.append(f"extract.weights={weights}")
    return load_settings(None, {"source.uri": str(source), "root": str(root)}, sets)


class _Photos(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._prepare = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.transforms()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        prepared: torch.Tensor = self._prepare(Image.open(self._paths[number]).convert("RGB"))
        return prepared


def _net(weights: str) -> Callable[[torch.Tensor], torch.Tensor]:
    net = torchvision.models.alexnet(weights=None)
    net.load_state_dict(torch.load(weights, weights_only=True))
    return torch.nn.Sequential(net.features, net.avgpool, torch.nn.Flatten(), *net.classifier[:3]).eval()


def _plain(paths: Sequence[Path], weights: str) -> float:
    """What most would write first: a DataLoader with a worker a core."""
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    net, loader = _net(weights), torch.utils.data.DataLoader(_Photos(paths), 32, num_workers=cores)
    rates = []
    for _ in range(3):
        begun = time.perf_counter()
        with torch.inference_mode():
            done = sum(len(net(batch)) for batch in loader)
        rates.append(done / (time.perf_counter() - begun))
    return statistics.median(rates)


def _predict_batch_udf(paths: Sequence[Path], weights: str) -> float:
    """Spark's own inference, its start-up included: the model is loaded in each task."""

    def make() -> Callable[[np.ndarray], np.ndarray]:
        torch.set_num_threads(1)
        net = _net(weights)

        def predict(pixels: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                vectors: np.ndarray = net(torch.from_numpy(pixels)).numpy()
            return vectors

        return predict

    def prepared(batches: Any) -> Any:
        import pandas as pd

        for batch in batches:
            photos = _Photos([Path(one) for one in batch["path"]])
            yield pd.DataFrame({"pixels": [photos[number].numpy().ravel() for number in range(len(photos))]})

    spark = open_session(Settings(), "bench")
    embed = predict_batch_udf(
        make, return_type=ArrayType(FloatType()), batch_size=32, input_tensor_shapes=[[3, 224, 224]]
    )
    rows = spark.createDataFrame([(str(path),) for path in paths], "path string").repartition(os.cpu_count() or 1)
    begun = time.perf_counter()
    pixels = rows.mapInPandas(prepared, "pixels array<float>")
    done = pixels.select(embed("pixels").alias("vector")).selectExpr("size(vector) n").where("n = 4096").count()
    assert done == len(paths)
    return done / (time.perf_counter() - begun)
