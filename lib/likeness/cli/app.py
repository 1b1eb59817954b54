"""The command `likeness` with its subcommands.   [typer]"""

import typer

from likeness.cli import builds, evaluate, ledgers, models, networks, plan, products, query, roots, serve, status

app = typer.Typer(
    name="likeness",
    help="Visual search on a Hadoop stack. ./spark-submit.sh runs jobs; these commands inspect and serve a root.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(query.search)
app.command()(serve.serve)
app.command()(serve.leaf)
app.command()(serve.key)
app.command()(status.status)
app.command()(plan.plan)
app.command()(builds.verify)
app.command()(evaluate.compare)
app.command()(evaluate.evaluate)
app.command()(evaluate.robustness)
app.command()(networks.classify)
app.command()(networks.profile)
app.command()(builds.rollback)
app.command()(builds.export)
app.command()(products.hide)
app.command()(products.show)
app.command()(products.forget)
app.command()(roots.copy)
app.command()(roots.unlock)
app.command("retry-failed")(ledgers.retry_failed)
app.command("hbase-init")(roots.hbase_init)
app.add_typer(ledgers.runs, name="runs")
app.add_typer(ledgers.failures, name="failures")
app.add_typer(ledgers.config, name="config")
app.add_typer(networks.backbones, name="backbones")
app.add_typer(networks.weights, name="weights")
app.add_typer(models.models, name="models")
