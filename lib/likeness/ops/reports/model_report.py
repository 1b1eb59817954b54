"""A model's report: its card and what was measured in, an HTML page out.   [jinja2]"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from likeness import storage
from likeness.core import uris
from likeness.core.settings import Settings
from likeness.evaluation.model_metrics import by_class
from likeness.images.contact_sheet import encode_image, thumbnail
from likeness.models.model_card import ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.ops.reports.pages import page
from likeness.ops.reports.terminal import shown
from likeness.storage.table_reader import TableReader

_SIDE = 140
_NAMES = {
    "accuracy": "accuracy",
    "top3": "among the first three",
    "p10": "P@10",
    "p1": "P@1",
    "map": "mean average precision",
    "right": "attributes told right",
    "iou": "intersection over union",
    "iou_over_half": "boxes over one half",
    "landmarks_away": "landmarks' distance",
}


def write_trained(card: ModelCard, settings: Settings) -> str:
    """Writes ROOT/reports/RUN_ID.html.

    Returns:
        where it is, for people.
    """
    models = ModelRegistry(settings.root)
    report = json.loads(models.more(card, "report.json"))
    mistakes = report.get("mistakes", [])
    photos = TableReader(settings).photos([one["image_id"] for one in mistakes])
    values = {
        "card": card,
        "report": {"before": {}, "curve": [], **report},
        "names": _NAMES,
        "sentence": _sentence(card),
        "course": _course(report["course"]),
        "lines": _lines(report.get("curve", [])),
        "classes": by_class(np.array(report["confusion"]), card.classes) if "confusion" in report else [],
        "mistakes": [one | {"photo": _small(photos.get(one["image_id"]))} for one in mistakes],
    }
    place = uris.join(uris.canonical(settings.root), "reports", f"{card.run_id}.html")
    storage.files(place).write(place, page("model.html.j2", values))
    return shown(place)


def _sentence(card: ModelCard) -> str:
    metric = card.metrics[card.main]
    told = f"{_NAMES.get(card.main, card.main)} {metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"
    return f"Task {card.task}: {told} on {card.evaluation}."


def _course(epochs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Points of the loss and of what was held aside, in the plot's pixels."""
    if not epochs:
        return {}
    most = max(one["loss"] for one in epochs) or 1.0
    step = 550 / max(1, len(epochs) - 1)
    loss = [(70 + step * number, 210 - 190 * one["loss"] / most) for number, one in enumerate(epochs)]
    judged = [
        (70 + step * number, 210 - 190 * one["judged"], f"epoch {number + 1}: {one['judged']:.4f}")
        for number, one in enumerate(epochs)
        if one["judged"] == one["judged"]
    ]
    return {"most": most, "loss": loss, "judged": judged}


def _lines(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figure by the logarithm of the photos, a line a way of training, in the plot's pixels."""
    if len(curve) < 2:
        return []
    logs = np.log([row["photos"] for row in curve])
    across = 70 + 550 * (logs - logs[0]) / max(1e-9, logs[-1] - logs[0])
    names = [way["name"] for way in curve[0]["ways"]]
    return [
        {
            "name": name,
            "points": [
                (float(x), 210 - 190 * row["ways"][number]["value"]) for x, row in zip(across, curve, strict=True)
            ],
        }
        for number, name in enumerate(names)
    ]


def _small(photo: bytes | None) -> str | None:
    small = thumbnail(photo, _SIDE) if photo else None
    return base64.b64encode(encode_image(small, "JPEG")).decode() if small else None
