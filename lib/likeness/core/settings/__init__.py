"""Settings: a TOML file, overruled by LIKENESS_* variables, overruled by flags, to one frozen object.

Each concern is a frozen model. Every error is listed at once, and an unknown key is refused with the
nearest known spelling.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from likeness.core.errors import UsageError
from likeness.core.settings.models import Extract, Index, Limits, Serve, Settings, Source, Train, document, known_keys


def load_settings(
    config: str | None = None, flags: Mapping[str, Any] | None = None, assignments: Iterable[str] = ()
) -> Settings:
    """Reads file, environment and flags.

    Args:
        config: a TOML file, or None.
        flags: dotted key to value; None values are left out.
        assignments: `key=value` pairs as typed after `--set`; a value is read as TOML, else as text.

    Raises:
        UsageError: naming every wrong key and value at once.
    """
    errors: list[str] = []
    given: dict[str, Any] = {}
    for key, value in [*(flags or {}).items(), *_assigned(assignments, errors)]:
        if value is not None:
            _put(given, key, value, errors)
    from_file = _read_file(config) if config else {}
    values = _merge(_merge(from_file, _environment(errors)), given)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        errors += _explain(error)
    if errors:
        where = f" (file {config})" if config else ""
        raise UsageError(f"settings{where}:\n" + "\n".join(f"  {line}" for line in errors))
    return settings


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _read_file(config: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(config).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"--config {config}: {error.strerror}; name a TOML file that can be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {config} is not TOML: {error}; see deploy/conf/ for examples") from None


def _environment(errors: list[str]) -> dict[str, Any]:
    """What LIKENESS_* variables say; a name that can only be a misspelt key is an error, as in a file."""
    names = {
        name.upper().removeprefix("LIKENESS_"): name for name in os.environ if name.upper().startswith("LIKENESS_")
    }
    for rest, name in names.items():
        key = rest.lower().replace("__", ".")
        if key.partition(".")[0] in Settings.model_fields:
            continue
        # LIKENESS_JARS and its like are no settings: without a dot only a near miss is refused
        if "." in key or difflib.get_close_matches(key, Settings.model_fields, n=1, cutoff=0.8):
            errors.append(f"{name}: unknown key; {_meant(key)}")
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError as error:
        errors.append(f"environment: {error}, which is not JSON; set single keys, as LIKENESS_SOURCE__URI")
        return {}


def _assigned(assignments: Iterable[str], errors: list[str]) -> Iterator[tuple[str, Any]]:
    for text in assignments:
        key, equals, value = text.partition("=")
        if equals and key.strip():
            yield key.strip(), _value(key.strip(), value)
        else:
            errors.append(f"--set {text!r} is not key=value; write for example --set gates.min_recall=0.9")


def _value(key: str, text: str) -> Any:
    """TOML where it is TOML; a key whose value is text takes it as typed, so that a folder may be called 2024."""
    field = known_keys().get(key)
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text
    return text if field and field.annotation is str and not isinstance(value, str) else value


def _put(tree: dict[str, Any], dotted: str, value: Any, errors: list[str]) -> None:
    for table in _TEXT_TABLES:
        if dotted.startswith(f"{table}."):  # its keys have dots of their own
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
                yield f"{name}: unknown key; {_meant(name)}"
        else:
            yield f"{key} = {item['input']!r}: {item['msg']}"


def _leaves(key: str, value: Any) -> Iterator[str]:
    """The keys of an unknown table, so that each gets its nearest spelling."""
    if not isinstance(value, dict) or not value:
        yield key
        return
    for name, inner in value.items():
        yield from _leaves(f"{key}.{name}", inner)


def _meant(key: str) -> str:
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "`likeness config show` lists the keys"


_TEXT_TABLES = tuple(key for key, field in known_keys().items() if field.annotation == dict[str, str])

__all__ = [
    "Extract",
    "Index",
    "Limits",
    "Serve",
    "Settings",
    "Source",
    "Train",
    "document",
    "known_keys",
    "load_settings",
]
