"""Loads settings: a TOML file, overridden by LIKENESS_* variables, overridden by flags.

An error message lists all wrong keys and values, and names the nearest key for an unknown one.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, SettingsError

from likeness.core.errors import UsageError
from likeness.core.settings.models import Extract, Index, Limits, Serve, Settings, Source, Train, Values


def load_settings(config: str | None = None, flags: Values | None = None, assignments: Iterable[str] = ()) -> Settings:
    """Loads settings from file, environment and flags.

    Args:
        config: path of a TOML file, or None.
        flags: values by dotted key; None counts as not given.
        assignments: `key=value` pairs as typed after `--set`; a value is parsed as TOML, else taken as text.

    Raises:
        UsageError: keys or values are wrong; the message lists all of them.
    """
    errors: list[str] = []
    from_flags: Values = {}
    for key, value in [*(flags or {}).items(), *_parse(assignments, errors)]:
        if value is not None:
            _put(from_flags, key, value, errors)
    from_file = _read_file(config) if config else {}
    values = _merge(_merge(from_file, _environment(errors)), from_flags)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        errors += _explain(error)
    if errors:
        file = f" (file {config})" if config else ""
        listed = "".join(f"\n  {line}" for line in errors) if len(errors) > 1 else f" {errors[0]}"
        raise UsageError(f"settings{file}:{listed}")
    return settings


def setting_fields(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by its dotted key, such as `gates.min_recall`."""
    keys: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys |= setting_fields(nested, f"{prefix}{name}.")
        else:
            keys[prefix + name] = field
    return keys


def settings_table() -> str:
    """A Markdown table of every setting with its default and meaning."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, field in setting_fields().items():
        default = "today" if key == "date" else field.get_default(call_default_factory=True)
        rows.append(f"| `{key}` | {f'`{default}`' if default not in ('', {}) else ''} | {field.description} |")
    return "\n".join(rows) + "\n"


def _merge(values: Values, overrides: Values) -> Values:
    tables = {key for key in values.keys() & overrides if isinstance(values[key], dict)}
    both = {key: _merge(values[key], overrides[key]) for key in tables if isinstance(overrides[key], dict)}
    return values | overrides | both


def _read_file(config: str) -> Values:
    try:
        return tomllib.loads(Path(config).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config {config}: {error.strerror}; name a TOML file that can be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {config} is not TOML: {error}; see deploy/conf/ for examples") from None


def _environment(errors: list[str]) -> Values:
    """The values of LIKENESS_* variables. A name that looks like a misspelt key is an error."""
    for name in os.environ:
        project, _, rest = name.lower().partition("_")
        key = rest.replace("__", ".")
        if project != "likeness" or key.partition(".")[0] in Settings.model_fields:
            continue
        # LIKENESS_JARS and others are no settings, so a name without a dot is refused only if it is close to a key
        if "." in key or difflib.get_close_matches(key, Settings.model_fields, n=1, cutoff=0.8):
            errors.append(f"{name}: unknown key; {_suggest(key)}")
    try:
        return EnvSettingsSource(Settings, env_prefix="LIKENESS_", env_nested_delimiter="__")()  # type: ignore[arg-type]
    except SettingsError as error:
        errors.append(f"environment: {error}, which is not JSON; set single keys, such as LIKENESS_SOURCE__URI")
        return {}


def _parse(assignments: Iterable[str], errors: list[str]) -> Iterator[tuple[str, Any]]:
    for text in assignments:
        key, equals, value = text.partition("=")
        if equals and key.strip():
            yield key.strip(), _value(key.strip(), value)
        else:
            errors.append(f"--set {text!r} is not key=value; write for example --set gates.min_recall=0.9")


def _value(key: str, text: str) -> Any:
    """Parses a value as TOML; a text setting takes it as typed, so that a folder may be called 2024."""
    field = setting_fields().get(key)
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
    return text if field and field.annotation is str and not isinstance(value, str) else value


def _put(tree: Values, dotted: str, value: Any, errors: list[str]) -> None:
    for table in _TEXT_TABLES:
        if dotted.startswith(f"{table}."):  # its keys contain dots
            *parents, last = *table.split("."), dotted.removeprefix(f"{table}.")
            value = str(value)
            break
    else:
        *parents, last = dotted.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            errors.append(f"--set {dotted}: {parent} is a value, not a table")
            return
    tree[last] = value


def _explain(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            for name in _leaves(key, item["input"]):
                yield f"{name}: unknown key; {_suggest(name)}"
        else:
            yield f"{key} = {item['input']!r}: {item['msg'].removeprefix('Value error, ')}"


def _leaves(key: str, value: Any) -> Iterator[str]:
    """The dotted keys of an unknown table, each of which gets its own suggestion."""
    if not isinstance(value, dict) or not value:
        yield key
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)


def _suggest(key: str) -> str:
    near = difflib.get_close_matches(key, setting_fields(), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "`likeness config show` lists the keys"


_TEXT_TABLES = tuple(key for key, field in setting_fields().items() if field.annotation == dict[str, str])

__all__ = ["Extract", "Index", "Limits", "Serve", "Settings", "Source", "Train", "load_settings", "setting_fields"]
