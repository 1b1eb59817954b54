"""`likeness models`: versions of trained models, their metrics, and which is in service.   [typer]"""

from typing import Annotated

import typer

from likeness.cli.common import AsJson, Root, interval, load_root, show_json, show_result, show_table
from likeness.models.model_registry import ModelRegistry, override_reason

models = typer.Typer(help="List, compare and promote trained models.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="name of the model")]


@models.command("list")
def list_(root: Root = None, as_json: AsJson = False) -> None:
    """List all versions of all models."""
    registry = ModelRegistry(load_root(root).root)
    rows, cells = [], []
    for name in registry.names():
        promoted = [promotion.version for promotion in registry.promotions(name)[:1]]
        for version in registry.versions(name):
            card, active = registry.card(name, version), version in promoted
            metric = card.metrics[card.main_metric]
            values = {"model": name, "version": version, "in service": active, "task": card.task}
            rows.append({**values, "metric": card.main_metric, **metric.model_dump(), "on": card.evaluation})
            text = f"{card.main_metric} {interval(metric)}"
            cells.append((name, version, "in service" * active, card.task, text, card.evaluation))
    titles = ("model", "version", "", "task", "metric", "evaluated on")
    none = f"no model in {registry.folder}; ./spark-submit.sh train --task category trains one"
    show_result(rows, as_json, lambda: show_table(titles, cells, none))


@models.command()
def show(
    name: Name,
    version: Annotated[str, typer.Option(help="a version (default: the one in service, else the newest)")] = "",
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Show a version of a model.

    Its training data, metrics and promotions.
    """
    registry = ModelRegistry(load_root(root).root)
    card = registry.card(name, version)
    promotions = registry.promotions(name)
    if as_json:
        show_json(card.model_dump(mode="json") | {"promotions": [one.model_dump(mode="json") for one in promotions]})
        return
    fields = {
        "model": f"{card.name} {card.version}",
        "task": card.task,
        "space": f"{registry.space(card).id}, from {card.space}",
        "trained on": f"{card.photos:,} photos, seed {card.seed}",
        "classes": ", ".join(card.classes) or "none",
        "licence": card.licence,
        "weights": f"{registry.weights(card)}, {card.weights.bytes / 1e6:,.1f} MB, SHA-256 {card.weights.sha256[:12]}",
    }
    show_table(("", ""), list(fields.items()))
    metrics = [
        (key, interval(metric), on) for on, by_name in registry.metrics(card).items() for key, metric in by_name.items()
    ]
    show_table(("metric", "value", "evaluated on"), metrics)
    for one in promotions:
        why = f", against a gate: {one.reason}" if one.reason else ""
        print(f"promoted: {one.version} at {one.when:%Y-%m-%d %H:%M:%S}{why}")


@models.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Option(help="a version (default: the newest)")] = "",
    force: Annotated[bool, typer.Option("--force", help="promote it even if a gate refuses")] = False,
    reason: Annotated[str, typer.Option(help="reason for --force; it is recorded")] = "",
    root: Root = None,
) -> None:
    """Put a version in service.

    Refused if it is worse than the version in service.
    """
    before, now = ModelRegistry(load_root(root).root).promote(name, version, override_reason(force, reason))
    print(f"{name}: {now.version} is in service" + (f", before: {before.version}" if before else ""))


@models.command()
def rollback(name: Name, root: Root = None) -> None:
    """Put the previous version back in service."""
    before, now = ModelRegistry(load_root(root).root).rollback(name)
    print(f"{name}: {now} is in service, before: {before}")


@models.command()
def freeze(
    name: Annotated[str, typer.Argument(help="name of the evaluation set")],
    where: Annotated[str, typer.Option(help="attribute=value of the listings to take")] = "",
    share: Annotated[float, typer.Option(min=0.001, max=0.9, help="share of products, without --where")] = 0.1,
    root: Root = None,
) -> None:
    """Create an evaluation set.

    Its photos are used in no training, so that models are evaluated on new photos.
    """
    from likeness.evaluation.evaluation_sets import EvaluationSets

    settings = load_root(root)
    created = EvaluationSets(settings.root).freeze(settings, name, where, share)
    print(f"{created.id}: {len(created.photos):,} photos of {len(created.products):,} products ({created.made_of})")
