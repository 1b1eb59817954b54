"""Report of a trained model: its card and the measurements of its training in, an HTML page out.   [jinja2]"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from likeness import storage
from likeness.core import uris
from likeness.core.settings import Settings
from likeness.evaluation.model_metrics import Class, by_class
from likeness.models.model_card import ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.models.training_report import CurveRow, TrainingReport
from likeness.ops.reports.pages import inline_thumbnail, render_page
from likeness.ops.reports.terminal import display_path
from likeness.storage.table_reader import TableReader

_METRIC_NAMES = {
    "accuracy": "accuracy",
    "top3": "top-3 accuracy",
    "p10": "P@10",
    "p1": "P@1",
    "map": "mean average precision",
    "right": "attributes predicted correctly",
    "iou": "intersection over union",
    "iou_over_half": "boxes with an intersection over union above 0.5",
    "landmarks_away": "landmarks' distance",
}


@dataclass(frozen=True)
class _ModelPage:
    card: ModelCard
    report: TrainingReport
    metric_names: Mapping[str, str]
    headline: str
    validated: Sequence[tuple[int, float]]
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]]
    classes: Sequence[Class]
    thumbnails: Mapping[str, str | None]


def write_model_report(card: ModelCard, settings: Settings) -> str:
    """Writes ROOT/reports/RUN_ID.html.

    Returns:
        where the report is, for people.
    """
    report = ModelRegistry(settings.root).report(card)
    photos = TableReader(settings).photos([mistake.image_id for mistake in report.mistakes])
    page = _ModelPage(
        card=card,
        report=report,
        metric_names=_METRIC_NAMES,
        headline=_headline(card),
        validated=[(n, epoch.validation) for n, epoch in enumerate(report.epochs, 1) if not np.isnan(epoch.validation)],
        lines=_lines(report.curve),
        classes=by_class(np.array(report.confusion), card.classes) if report.confusion else [],
        thumbnails={image_id: inline_thumbnail(photo) for image_id, photo in photos.items()},
    )
    uri = uris.join(uris.canonical(settings.root), "reports", f"{card.run_id}.html")
    storage.files(uri).write(uri, render_page("model.html.j2", page))
    return display_path(uri)


def _headline(card: ModelCard) -> str:
    name, metric = card.main_metric, card.metrics[card.main_metric]
    value = f"{_METRIC_NAMES.get(name, name)} {metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"
    return f"Task {card.task}: {value} on {card.evaluation}."


def _lines(curve: Sequence[CurveRow]) -> list[tuple[str, list[tuple[float, float]]]]:
    """For each way of training its metric by the logarithm of the photos, these as a share of the plot's width."""
    if len(curve) < 2:
        return []
    logs = np.log([row.photos for row in curve])
    across = ((logs - logs[0]) / max(1e-9, logs[-1] - logs[0])).tolist()
    return [
        (way.name, [(x, row.ways[number].value) for x, row in zip(across, curve, strict=True)])
        for number, way in enumerate(curve[0].ways)
    ]
