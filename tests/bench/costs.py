"""What backbones and ways to prepare photos cost, and what they are worth."""

import csv
import os
from pathlib import Path

import numpy as np

from likeness.core.settings import Settings, load_settings
from likeness.core.statistics import Figure, figures
from likeness.index import distance
from likeness.models.backbones import registry

from . import bare
from .extraction import seeded
from .rows import row

_SECONDS, _FIRST, _MOST = 6.0, 64, 400
"""About how long the rate of a network is measured whose vectors are noise; photos at least, and at most."""
_CORES = os.cpu_count() or 1
WAYS = (
    "efficientnet_lite0-squash.pool",
    "efficientnet_lite0-pad.pool",
    "efficientnet_lite0-flip.pool",
    "efficientnet_lite0-ten.pool",
    "efficientnet_lite0-320.head.mean",
    "efficientnet_lite0.head.max",
    "efficientnet_lite0.head.gem",
    "efficientnet_lite0.pool.root",
    "efficientnet_lite0.stage5.gram",
    "efficientnet_lite0.stage5.mean.l2+pool.l2",
)
"""Spaces of one network: shapes, views, a larger side, poolings, norms, layers together."""


def measure(clothing: Path, scratch: Path) -> None:
    """A row a backbone, and a row a way to use one: photos a second, per core-hour, and P@1 and P@10 where known."""
    photos = sorted((clothing / "train").rglob("*.jpg"))
    for spec in registry().values():
        name, weights = f"{spec.name}.{spec.default_layer}", seeded(spec, scratch)
        if not weights:
            _worth(name, clothing, scratch)
            continue
        settings = _settings(name, scratch, f"extract.weights={weights}")
        pilot = bare.rate(photos[:_FIRST], settings, _CORES)
        _say(name, bare.rate(photos[: int(np.clip(pilot * _SECONDS, _FIRST, _MOST))], settings, _CORES), {})
        weights.unlink()
    for name in WAYS:
        _worth(name, clothing, scratch)


def _worth(name: str, clothing: Path, scratch: Path) -> None:
    """One space whose weights are at hand: the validation photos ask for those of train."""
    with (clothing / "catalogue.csv").open(encoding="utf-8", newline="") as file:
        category = {Path(one["image"]).name: one["category"] for one in csv.DictReader(file)}
    train, queries = (sorted((clothing / part).rglob("*.jpg")) for part in ("train", "validation"))
    vectors, rate = bare.vectors([*train, *queries], _settings(name, scratch), _CORES)
    unit = distance.prepared(vectors, "cosine")
    nearest = np.argsort(-(unit[len(train) :] @ unit[: len(train)].T), axis=1, kind="stable")[:, :10]
    labels, truth = (np.array([category[path.name] for path in paths]) for paths in (train, queries))
    good = labels[nearest] == truth[:, None]
    _say(name, rate, dict(zip(("P@1", "P@10"), figures(np.stack([good[:, 0], good.mean(1)], 1)), strict=True)))


def _say(name: str, rate: float, metrics: dict[str, Figure]) -> None:
    each = "".join(f", {key} {one.value:.3f} ({one.low:.3f}-{one.high:.3f})" for key, one in metrics.items())
    row(name, f"{rate:.1f} photos/s, {3600 * rate / _CORES:,.0f} per core-hour{each}", "")


def _settings(space: str, scratch: Path, *more: str) -> Settings:
    return load_settings(None, {"extract.space": space}, (f"extract.cache={scratch / 'cache'}", *more))
