"""The command `likeness` with its subcommands.   [typer]"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from likeness import __version__
from likeness.cli import builds, evaluate, ledgers, models, networks, plan, products, query, roots, serve, status

_SEARCH, _LOOK = "Search and serve", "Look at a root"
_CHANGE, _MEASURE, _NETWORKS = "Change a root", "Measure", "Networks and models"


class _GroupedCommands(TyperGroup):
    """Lists commands in `--help` by their panel."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes a section for each panel, in the order in which the commands were added."""
        panels: dict[str, list[tuple[str, Any]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command and not command.hidden:
                panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append((name, command))
        width = max(len(name) for commands in panels.values() for name, _ in commands)
        for panel, commands in panels.items():
            with formatter.section(panel):
                limit = formatter.width - 6 - width
                formatter.write_dl(
                    [(f"{name:{width}}", command.get_short_help_str(limit)) for name, command in commands]
                )


def _show_version(value: bool) -> None:
    if value:
        print(f"likeness {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="likeness",
    cls=_GroupedCommands,
    help="Visual search on a Hadoop stack. ./spark-submit.sh runs jobs; these commands inspect and serve a root.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """The options of the command itself; a docstring of its own would replace the help of `app`."""


app.command(rich_help_panel=_SEARCH)(query.search)
app.command(rich_help_panel=_SEARCH)(serve.serve)
app.command(rich_help_panel=_SEARCH)(serve.leaf)
app.command(rich_help_panel=_SEARCH)(serve.key)
app.command(rich_help_panel=_LOOK)(status.status)
app.command(rich_help_panel=_LOOK)(plan.plan)
app.command(rich_help_panel=_LOOK)(builds.verify)
app.add_typer(ledgers.runs, name="runs", rich_help_panel=_LOOK)
app.add_typer(ledgers.failures, name="failures", rich_help_panel=_LOOK)
app.add_typer(ledgers.config, name="config", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(builds.export)
app.command(rich_help_panel=_CHANGE)(builds.rollback)
app.command(rich_help_panel=_CHANGE)(products.hide)
app.command(rich_help_panel=_CHANGE)(products.show)
app.command(rich_help_panel=_CHANGE)(products.forget)
app.command("retry-failed", rich_help_panel=_CHANGE)(ledgers.retry_failed)
app.command(rich_help_panel=_CHANGE)(roots.copy)
app.command(rich_help_panel=_CHANGE)(roots.unlock)
app.command("hbase-init", rich_help_panel=_CHANGE)(roots.hbase_init)
app.command(rich_help_panel=_MEASURE)(evaluate.evaluate)
app.command(rich_help_panel=_MEASURE)(evaluate.compare)
app.command(rich_help_panel=_MEASURE)(evaluate.robustness)
app.command(rich_help_panel=_MEASURE)(networks.profile)
app.add_typer(models.models, name="models", rich_help_panel=_NETWORKS)
app.add_typer(networks.backbones, name="backbones", rich_help_panel=_NETWORKS)
app.command(rich_help_panel=_NETWORKS)(networks.classify)
app.add_typer(networks.weights, name="weights", rich_help_panel=_NETWORKS)
