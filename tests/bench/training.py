"""What is learned from the clothing photos: heads, spaces, how fast, and what a category model saves."""

import csv
import dataclasses
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from likeness.catalog import samples
from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.malloc import keep_freed_memory
from likeness.core.settings import Settings, load_settings
from likeness.evaluation.evaluation_sets import EvaluationSets
from likeness.index.builds import Builds
from likeness.models.backbones import resolve
from likeness.models.backbones.heads import Head
from likeness.models.category_classifier import load_category_classifier
from likeness.models.model_card import ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.models.spaces import space_of
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.spark import jobs
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES
from likeness.training.network import Network
from likeness.training.plan import plan_training
from likeness.training.request import TrainingRequest
from likeness.training.training_run import train_model

from .rows import row

_SPACE = "efficientnet_lite0-320-pad.pool+stage7.mean+stage6.mean"
_BEST = "efficientnet_lite2-320-pad.pool+stage7.mean+stage6.mean"
"""Of a network of twice the work."""
_HEAD = ("train.candidates=[{hidden=[1024],rate=5e-4},{hidden=[1024],rate=5e-4,dropout=0.7}]",)
_SEEDS = 5
_METRIC = (
    "train.epochs=30",
    "train.patience=8",
    "train.candidates=[{hidden=[1024],temperature=0.1},{hidden=[1024],temperature=0.2},"
    "{hidden=[512],temperature=0.2,dropout=0.3}]",
)
_TUNED_SPACE = "efficientnet_lite0-320-pad.pool"
_TUNED = (
    "train.unfreeze=stage4",
    "train.distort=4",
    "train.folds=1",
    "train.epochs=14",
    "train.patience=6",
    "train.rate=1e-3",
    "train.rate_decay=0.4",
    "train.hidden=[]",
    "train.dropout=0",
    "train.batch_size=64",
)


def measure(clothing: Path, scratch: Path) -> None:
    """All rows: settings are chosen by cross-validation on train once, then five seeds are measured on validation."""
    root = scratch / "training"
    settings = _settings(clothing, root, "efficientnet_lite0.pool")
    jobs.nightly(settings)
    EvaluationSets(str(root)).freeze(settings, "validation", "split=validation", 0.1)
    plain = train_model(plan_training(settings, TrainingRequest("category"), "plain"))
    assert plain
    row("head on efficientnet_lite0.pool, accuracy", _interval([plain], "accuracy"), "0.865 by hand")
    large = _settings(clothing, root, _SPACE)
    jobs.extract_job(large)
    heads = _seeds(large, "category")
    row(f"head on frozen {_SPACE}, accuracy", _interval(heads, "accuracy"), ">= 0.88")
    cards = _seeds(large, "metric", *_METRIC)
    row("space learned on it, P@10 of validation in train", _interval(cards, "p10"), ">= 0.87")
    row("space learned on it, P@1 of validation in train", _interval(cards, "p1"), ">= 0.87")
    best = _settings(clothing, root, _BEST)
    jobs.extract_job(best)
    row(f"head on frozen {_BEST}, accuracy", _interval(_seeds(best, "category", *_HEAD), "accuracy"), "aim 0.93")
    distorted = _timed(_settings(clothing, root, _BEST, *_HEAD, "train.distort=3"), "distorted")
    row("the same with three distorted versions of each photo, accuracy", distorted, "aim 0.93 in 20 minutes")
    tuned = _timed(_settings(clothing, root, _TUNED_SPACE, *_TUNED), "tuned")
    row(f"{_TUNED_SPACE} trained from stage 4 on, accuracy", tuned, "aim 0.93 in 20 minutes")
    cards = _seeds(best, "metric", *_METRIC)
    row(f"space learned on {_BEST}, P@10", _interval(cards, "p10"), "aim 0.92")
    row(f"space learned on {_BEST}, P@1", _interval(cards, "p1"), "")
    _fast(large)
    _steps(settings.extract.cache)
    _category_first(clothing, settings, plain)


def _settings(clothing: Path, root: Path, space: str, *more: str) -> Settings:
    flags = {"source.uri": str(clothing), "root": str(root), "extract.space": space}
    return load_settings(None, flags, more)


def _seeds(settings: Settings, task: str, *more: str) -> list[ModelCard]:
    """Models of five seeds with what cross-validation chose for the first."""
    base = _settings(Path(settings.source.uri), Path(settings.root), settings.extract.space, *more)
    name = f"{task}-{settings.extract.space.partition('.')[0]}"
    first = train_model(plan_training(base, TrainingRequest(task), f"{name}-0"))
    assert first
    best = max(first.candidates, key=lambda candidate: candidate.value)
    cards = [first]
    for seed in range(1, _SEEDS):
        how = base.train.model_copy(update={"candidates": [best.settings], "seed": seed})
        card = train_model(
            plan_training(base.model_copy(update={"train": how}), TrainingRequest(task), f"{name}-{seed}")
        )
        assert card
        cards.append(card)
    return cards


def _timed(settings: Settings, name: str) -> str:
    begun = time.monotonic()
    card = train_model(plan_training(settings, TrainingRequest("category"), name))
    assert card
    return f"{_interval([card], 'accuracy')}, in {(time.monotonic() - begun) / 60:.0f} minutes"


def _interval(cards: Sequence[ModelCard], name: str) -> str:
    values = [card.metrics[name].value for card in cards]
    if len(values) == 1:
        metric = cards[0].metrics[name]
        return f"{metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"
    half = 2.776 * statistics.stdev(values) / len(values) ** 0.5  # Student's t, four degrees of freedom
    mean, metric = statistics.mean(values), cards[0].metrics[name]
    return (
        f"{mean:.3f} +- {half:.3f} over {len(values)} seeds (each {', '.join(f'{one:.3f}' for one in values)}; "
        f"of one, over photos: {metric.low:.3f} to {metric.high:.3f})"
    )


def _fast(settings: Settings) -> None:
    """Vectors read, and an epoch on them, against the bare read, and an epoch with the network in the loop."""
    tables, space = TableReader(settings), space_of(settings)
    files = [uri for uri, _ in tables.parts(FEATURES, f"space = '{space.id}'")]
    paths = [uri.removeprefix("file:") for uri in files]
    keys = [key for path in paths for key in pq.read_table(path, columns=["image_id"])[0].to_pylist()]
    shares = []
    for _ in range(5):
        begun = time.perf_counter()
        for path in paths:
            table = pq.read_table(path, columns=["image_id", "vector"])
            np.asarray(table["vector"].combine_chunks().flatten())
            table["image_id"].to_pylist()
        bare = time.perf_counter() - begun
        begun = time.perf_counter()
        samples.vector_matrix(files, space.id, keys)
        shares.append(bare / (time.perf_counter() - begun))
    row("vectors read for training / bare pyarrow", f"{statistics.median(shares):.2f}", ">= 0.8")
    seconds = {}
    for name, sets in (("vectors", ()), ("network", ("train.unfreeze=all", "train.batch_size=32", "train.photos=512"))):
        how = ("train.folds=0", "train.epochs=2", *sets)
        small = _settings(Path(settings.source.uri), Path(settings.root), "efficientnet_lite0.pool", *how)
        card = train_model(plan_training(small, TrainingRequest("category"), f"speed-{name}"))
        assert card
        report = ModelRegistry(settings.root).report(card)
        seconds[name] = report.epochs[-1].seconds / card.photos
    row("an epoch with the network in the loop / on vectors", f"{seconds['network'] / seconds['vectors']:.0f}", ">= 20")


def _steps(cache: str) -> None:
    """Steps of stage 4 and all after it, forward and backward, with what the one before freed and on fresh pages."""
    network = Network(resolve(_TUNED_SPACE), Head("logits", 1280, (), 10), cache, "stage4")
    network.to(memory_format=torch.channels_last).train()
    side = network.preprocessing.crop
    photos = torch.randint(256, (64, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    maps = network.frozen_features(photos).clone(memory_format=torch.channels_last)
    rates = []
    for memory in (nullcontext(), keep_freed_memory()):
        with memory:
            for number in range(8):
                if number == 2:
                    begun = time.perf_counter()
                network(maps).square().mean().backward()
            rates.append(6 * len(maps) / (time.perf_counter() - begun))
    figure = f"{rates[1] / rates[0]:.1f} ({rates[1]:.0f}/s, {rates[0]:.0f}/s)"
    row(f"{_TUNED_SPACE} from stage 4 on: steps with memory kept / given back", figure, "")


def _category_first(clothing: Path, settings: Settings, card: ModelCard) -> None:
    """The best three categories by the model, against all: ids of the first ten that stay, and vectors searched."""
    ModelRegistry(settings.root).promote(card.name, card.version)
    builds = Builds(settings.root)
    manifest = builds.find()
    classifier = load_category_classifier(settings, manifest.space)
    assert classifier
    leaf, hidden = Leaf(builds, manifest), HiddenProducts(settings.root)
    root = Root(manifest, leaf, hidden, classifier)
    with (clothing / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        queries = [one["product_id"] for one in csv.DictReader(file) if one["split"] == "validation"]
    tables = TableReader(settings)
    evaluation_set = EvaluationSets(settings.root).find("validation")
    assert evaluation_set
    keys = sorted(evaluation_set.photos)
    files = [uri for uri, _ in tables.parts(FEATURES, f"space = '{manifest.space}'")]
    vectors = samples.vector_matrix(files, manifest.space, keys)
    ways = {"neighbours": None, "the model": classifier}
    for name, model in ways.items():
        kept, searched = [], []
        for key, vector in zip(keys, vectors, strict=True):
            products = list(evaluation_set.photos[key].products)
            everything = root.search(vector, manifest.space, SearchParams(10, "all"), excluded=products)
            voted = dataclasses.replace(root.predict(vector), restricts=True) if model else None
            best = root.search(vector, manifest.space, SearchParams(10), voted, excluded=products)
            ids = [{result.image_id for result in answer.results} for answer in (everything, best)]
            kept.append(len(ids[0] & ids[1]) / len(ids[0]))
            searched.append(best.coverage.searched / everything.coverage.searched)
        row(
            f"best three categories by {name}: ids kept of the first ten, share searched",
            f"{statistics.mean(kept):.3f}, {statistics.mean(searched):.2f} ({len(queries)} photos)",
            ">= 0.95, <= 0.35",
        )
