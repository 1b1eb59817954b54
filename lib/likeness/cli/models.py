"""`likeness models`: versions of trained networks, and which of them is in service.   [typer]"""

from typing import Annotated

import typer

from likeness.cli.common import AsJson, Root, interval, load, show_json, show_table
from likeness.models.model_registry import ModelRegistry, overruling

models = typer.Typer(help="Networks that were trained here.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="of the model")]


@models.command("list")
def list_(root: Root = None, as_json: AsJson = False) -> None:
    """Every version of every model, with what it is worth."""
    known = ModelRegistry(load(root).root)
    rows = []
    for name in known.names():
        promoted = known.promotions(name)
        for version in known.versions(name):
            card = known.card(name, version)
            main = card.metrics[card.main]
            rows.append(
                {
                    "model": name,
                    "version": version,
                    "in service": bool(promoted) and promoted[0].version == version,
                    "task": card.task,
                    "metric": card.main,
                    **main.model_dump(),
                    "on": card.evaluation,
                }
            )
    if as_json:
        show_json(rows)
    elif not rows:
        print(f"no model in {known.folder}; ./spark-submit.sh train --task category makes one")
    else:
        cells = [
            (
                row["model"],
                row["version"],
                "in service" if row["in service"] else "",
                row["task"],
                f"{row['metric']} {interval(row)}",
                row["on"],
            )
            for row in rows
        ]
        show_table(("model", "version", "", "task", "worth", "on"), cells)


@models.command()
def show(
    name: Name,
    version: Annotated[str, typer.Option(help="default: that in service, else the newest")] = "",
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """What a model was made from, and what it is worth."""
    known = ModelRegistry(load(root).root)
    card = known.card(name, version)
    promotions = known.promotions(name)
    if as_json:
        show_json(card.model_dump(mode="json") | {"promotions": [one.model_dump(mode="json") for one in promotions]})
        return
    told = {
        "model": f"{card.name} {card.version}",
        "task": card.task,
        "space": f"{known.space(card).id}, from {card.space}",
        "learned from": f"{card.photos:,} photos, seed {card.seed}",
        "classes": ", ".join(card.classes) or "none",
        "licence": card.licence,
        "weights": f"{known.weights(card)}, {card.weights.bytes / 1e6:,.1f} MB, SHA-256 {card.weights.sha256[:12]}",
    }
    show_table(("", ""), list(told.items()))
    figures = [
        (key, interval(metric.model_dump()), on)
        for on, metrics in known.measured(card).items()
        for key, metric in metrics.items()
    ]
    show_table(("figure", "value", "on"), figures)
    for one in promotions:
        why = f", although a gate refused: {one.reason}" if one.reason else ""
        print(f"promoted: {one.version} at {one.when:%Y-%m-%d %H:%M:%S}{why}")


@models.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Option(help="default: the newest")] = "",
    force: Annotated[bool, typer.Option("--force", help="although a gate refuses")] = False,
    reason: Annotated[str, typer.Option(help="why, with --force; it is kept")] = "",
    root: Root = None,
) -> None:
    """Put a version in service, unless it is worse than the one that is."""
    before, now = ModelRegistry(load(root).root).promote(name, version, overruling(force, reason))
    print(f"{name}: {now.version} is in service" + (f", before: {before.version}" if before else ""))


@models.command()
def rollback(name: Name, root: Root = None) -> None:
    """Put the version in service that was before."""
    before, now = ModelRegistry(load(root).root).rollback(name)
    print(f"{name}: {now} is in service, before: {before}")


@models.command()
def freeze(
    name: Annotated[str, typer.Argument(help="of the evaluation set")],
    where: Annotated[str, typer.Option(help="attribute=value of the listings that are taken")] = "",
    share: Annotated[float, typer.Option(min=0.001, max=0.9, help="of the products, if no attribute is named")] = 0.1,
    root: Root = None,
) -> None:
    """Keep photos apart for good, so that models are measured on what none of them has seen."""
    from likeness.evaluation.evaluation_sets import EvaluationSets

    settings = load(root)
    made = EvaluationSets(settings.root).freeze(settings, name, where, share)
    print(f"{made.id}: {len(made.photos):,} photos of {len(made.products):,} products ({made.made_of})")
