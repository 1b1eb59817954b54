"""What the commands share: flags, settings, and output as a table or JSON.   [typer, rich]"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from likeness.core.errors import UsageError
from likeness.core.settings import Settings, load_settings

Root = Annotated[str | None, typer.Option(help="folder that holds everything written (default: var)")]
Config = Annotated[str | None, typer.Option(help="TOML file of settings")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="key=value of any setting")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]


def load(root: str | None, config: str | None = None, assignments: list[str] | None = None) -> Settings:
    """The settings of a command."""
    return load_settings(config, {"root": root}, assignments or ())


def read_photo(path: Path) -> bytes:
    """The bytes of a photo that a command names.

    Raises:
        UsageError: they cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a photo") from None


def show_json(value: Any) -> None:
    """Prints a value as JSON on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def interval(figure: Mapping[str, float]) -> str:
    """A figure with the ends of its interval, as `0.812 (0.790-0.834)`."""
    return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows for a person."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 240  # a file or pipe has no width to keep to
    console.print(table)
