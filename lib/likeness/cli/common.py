"""Shared parts of the commands: flags, settings, and output as a table or JSON.   [typer, rich]"""

import dataclasses
import functools
import inspect
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from likeness import storage
from likeness.core.errors import UsageError
from likeness.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from likeness.core.statistics import Figure
    from likeness.models.model_card import Metric

Root = Annotated[str | None, typer.Option(help="folder of all tables, builds and models (default: var)")]
Config = Annotated[str | None, typer.Option(help="TOML file of settings")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of any setting; may be repeated")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]


def load(root: str | None, config: str | None = None, assignments: list[str] | None = None) -> Settings:
    """Loads the settings of a command from its flags."""
    return load_settings(config, {"root": root}, assignments or ())


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --root, --config and --set to a command; its first parameter, `settings`, is loaded from them."""
    return _with_settings(command, lambda settings: None)


def with_root(command: Callable[..., None]) -> Callable[..., None]:
    """As `with_settings`, for a command that works on a root: one that does not exist ends it with exit code 1."""
    return _with_settings(command, lambda settings: storage.check_root(settings.root))


def load_root(root: str | None) -> Settings:
    """Loads the settings of a command that works on a root.

    Raises:
        MissingRootError: the root does not exist.
    """
    settings = load(root)
    storage.check_root(settings.root)
    return settings


def _with_settings(command: Callable[..., None], check: Callable[[Settings], None]) -> Callable[..., None]:
    @functools.wraps(command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def run(root: Root = None, config: Config = None, assignments: Assignments = None, **options: Any) -> None:
        settings = load(root, config, assignments)
        check(settings)
        command(settings, **options)

    _, *own = inspect.signature(command).parameters.values()
    flags = list(inspect.signature(run, follow_wrapped=False).parameters.values())[:3]
    parameters = [*own, *(flag.replace(kind=inspect.Parameter.KEYWORD_ONLY) for flag in flags)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def read_photo(path: Path) -> bytes:
    """Reads the photo that a command names.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a photo") from None


def show_json(value: object) -> None:
    """Prints a value as JSON on standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def show_result(value: object, as_json: bool, as_text: Callable[[], None]) -> None:
    """Prints a value: as JSON for programs, or by `as_text` for people."""
    if as_json:
        show_json(value)
    else:
        as_text()


def _plain(value: object) -> object:
    """The fields of a record; else text."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def interval(figure: "Figure | Metric") -> str:
    """Formats a value with the ends of its interval, as `0.812 (0.790-0.834)`."""
    return f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], none: str = "") -> None:
    """Prints rows as a table, for people; without rows the text `none`, if there is one."""
    rows = list(rows)
    if none and not rows:
        print(none)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console = Console(color_system=None) if os.environ.get("NO_COLOR") else Console()
    if not console.is_terminal:
        console.width = 240  # a file or pipe has no width
    console.print(table)
