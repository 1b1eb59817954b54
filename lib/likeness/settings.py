"""Settings: a TOML file, overruled by LIKENESS_* variables, overruled by flags, to one frozen object.

Each concern is a frozen model. Every error is listed at once, and an unknown key is refused with the
nearest known spelling.
"""

import datetime
import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from likeness.errors import UsageError

Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Where photos and their catalogue come from."""

    uri: str = Field("", description="folder, .tar or .parquet of photos")
    catalogue: str = Field("", description="CSV, JSON lines or Parquet; default: catalogue.* in the source")
    mode: Literal["delta", "full"] = Field(
        "delta", description="delta: a product that is absent stays; full: it is withdrawn"
    )


class Limits(_Frozen):
    """What one photo may cost."""

    max_bytes: Count = Field(30_000_000, description="a longer file is rejected")
    max_pixels: Count = Field(100_000_000, description="a photo of more pixels is rejected unopened")
    decode_timeout_s: float = Field(30.0, gt=0, le=86_400, description="a photo that takes longer to decode fails")


class Gates(_Frozen):
    """What stops a run before it publishes (exit code 3)."""

    max_failure_rate: Rate = Field(0.05, description="share of the photos that may stand failed")
    max_withdraw_rate: Rate = Field(0.2, description="share of the active listings that a run may withdraw")
    min_recall: Rate = Field(0.95, description="recall@k each shard must reach against exact search")


class Warehouse(_Frozen):
    """Where the Iceberg tables are."""

    type: str = Field("hadoop", description="Iceberg catalogue type: hadoop, hive or rest")
    uri: str = Field("", description="warehouse location; default: ROOT/tables")
    namespace: str = Field("likeness", pattern=r"^[a-z][a-z0-9_]*$", description="namespace of the tables")
    options: dict[str, str] = Field(default_factory=dict, description="further Iceberg catalogue properties")


class Ingest(_Frozen):
    """How photos are read and packed."""

    chunk_images: Count = Field(20_000, description="photos committed at once; what a kill can cost")
    chunk_bytes: Count = Field(2_000_000_000, description="bytes committed at once")


class Extract(_Frozen):
    """Which vectors, and how they are made."""

    space: str = Field(
        "efficientnet_lite0.pool",
        description="backbone.layer; with @hash it is pinned, and any other weights are refused",
    )
    weights: str = Field("", description="weights file (safetensors or a state dict); default: the backbone's own")
    runtime: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="auto: CUDA through torch where there is a GPU, else OpenVINO"
    )
    batch_size: Count = Field(32, description="photos a forward pass")
    decode_threads: Count = Field(1, description="decoder threads beside each model")
    queue_bytes: Count = Field(256_000_000, description="bytes of decoded photos that may wait for the model")
    chunk_images: Count = Field(20_000, description="photos committed at once; what a kill can cost")
    cache: str = Field("~/.cache/likeness", description="folder for converted models, on each machine")


class Index(_Frozen):
    """How shards are built and proved."""

    kind: str = Field("flat", description="index kind; see `likeness.indexes.kinds`")
    metric: Literal["cosine", "l2", "ip"] = Field("cosine", description="how vectors are compared")
    max_shard_vectors: Count = Field(1_000_000, description="a larger category is split")
    keep_builds: Count = Field(5, description="builds kept for rollback")
    audit_queries: Count = Field(64, description="held-out queries a shard")
    audit_k: Count = Field(10, description="k of the audited recall@k")


class Keyed(_Frozen):
    """The store that gives vectors and product facts by key."""

    uri: str = Field("", description="sqlite:///path; default: ROOT/keyed.sqlite")


class Settings(BaseSettings):
    """All of a run's settings."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="LIKENESS_", env_nested_delimiter="__")

    root: str = Field("var", description="folder that holds everything the project writes")
    date: datetime.date = Field(default_factory=datetime.date.today, description="epoch of new photos")
    source: Source = Source()
    limits: Limits = Limits()
    gates: Gates = Gates()
    warehouse: Warehouse = Warehouse()
    ingest: Ingest = Ingest()
    extract: Extract = Extract()
    index: Index = Index()
    keyed: Keyed = Keyed()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *others: PydanticBaseSettingsSource,
        **named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` has merged."""
        return (init_settings,)


def load(
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


def known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of the settings, with its pydantic field."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            keys |= known_keys(nested, f"{prefix}{name}.")
        else:
            keys[prefix + name] = field
    return keys


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


def document() -> str:
    """Every key with its default and meaning, as a Markdown table."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key, field in known_keys().items():
        default = "today" if key == "date" else field.get_default(call_default_factory=True)
        rows.append(f"| `{key}` | {f'`{default}`' if default not in ('', {}) else ''} | {field.description} |")
    return "\n".join(rows) + "\n"
