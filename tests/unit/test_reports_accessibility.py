"""The reports as axe sees them, on a desktop and a phone: of a run with failures, a classifier and a regression."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser import VIEWS, chromium, needs_chromium, violations
from tests.unit.test_reports import NAMES, BuiltRoot, page, record

from likeness.core.settings import Settings
from likeness.index.manifest import OperatingPoint
from likeness.models.model_card import Candidate, Metric, ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.models.training_report import (
    Calibration,
    CalibrationBin,
    CurvePoint,
    CurveRow,
    Epoch,
    Mistake,
    TrainingReport,
)
from likeness.ops import reports
from likeness.storage.artifact import File

pytestmark = needs_chromium
METRIC = Metric(value=0.75, low=0.7, high=0.8)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(params=VIEWS)
def view(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    with browser.new_context(**VIEWS[request.param]) as context:
        yield context.new_page()


def complaints(view: Any, text: str) -> list[str]:
    """What axe says of a report, with all of its details open."""
    view.set_content(text)
    view.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    return violations(view)


def test_a_run(view: Any, tmp_path: Path) -> None:
    built = BuiltRoot(tmp_path, each=8)
    tried = [
        OperatingPoint(kind="hnsw", index_params={"ef_search": ef}, recall=recall, ms=ms)
        for ef, recall, ms in ((16, 0.9, 0.1), (64, 0.995, 0.4))
    ]
    trial = record(1, "dress", 90_000).model_copy(update={"curve": tried})
    failed = [("ingest", "not_an_image", name) for name in NAMES]
    assert complaints(view, page(built, failed, trial, status="failed", error="disk full")) == []


def card(**more: Any) -> ModelCard:
    values: dict[str, Any] = {
        "name": "clothes",
        "version": "1",
        "task": "category",
        "layer": "logits",
        "space": "efficientnet_lite0.pool@48a432dd",
        "parent": "efficientnet_lite0.pool@48a432dd",
        "frozen": True,
        "classes": NAMES[:3],
        "snapshots": {"features": 1},
        "photos": 1000,
        "evaluation": "v@0001",
        "metrics": {"accuracy": METRIC},
        "candidates": [Candidate(settings={"lr": 0.1}, value=0.7, error=0.01, epochs=3)],
        "temperature": 1.2,
        "seed": 0,
        "settings": {"lr": 0.1, "epochs": 3},
        "licence": "Apache-2.0",
        "created": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "run_id": "run",
        "weights": File(name="model.safetensors", bytes=1, sha256="0" * 64),
    }
    return ModelCard(**values | more)


REPORT = TrainingReport(
    epochs=[Epoch(loss=1 / n, validation=n / 5, seconds=1, photos=9) for n in range(1, 4)],
    best=2,
    baseline={"accuracy": METRIC},
    curve=[
        CurveRow(photos=photos, ways=[CurvePoint(name=name, value=0.5, seconds=2) for name in ("head", "from scratch")])
        for photos in (100, 1000)
    ],
    confusion=(30 * np.eye(3, dtype=int) + 1).tolist(),
    calibration=Calibration(bins=[CalibrationBin(photos=9, confidence=0.5, accuracy=0.6)], error=0.03),
    mistakes=[Mistake(image_id=64 * "a", truth=NAMES[0], predicted=NAMES[1], confidence=0.9)],
)


@pytest.mark.parametrize(
    ("trained", "report"),
    [
        (card(), REPORT),
        (card(task="landmarks", classes=(), candidates=()), TrainingReport(epochs=REPORT.epochs, best=1)),
    ],
    ids=["classifier", "regression"],
)
def test_a_training(
    view: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: ModelCard, report: TrainingReport
) -> None:
    monkeypatch.setattr(ModelRegistry, "report", lambda *_: report)
    reports.write_model_report(trained, Settings(root=str(tmp_path)))
    (written,) = (tmp_path / "reports").iterdir()
    assert complaints(view, written.read_text(encoding="utf-8")) == []
