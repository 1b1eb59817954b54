"""Settings: file < environment < flag, every error at once, and the spelling that was meant."""

import datetime
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from likeness.core.errors import UsageError
from likeness.core.settings import Settings, load_settings, setting_fields


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("LIKENESS_"):
            monkeypatch.delenv(name)


def written(folder: Path, text: str) -> str:
    (folder / "config.toml").write_text(text, encoding="utf-8")
    return str(folder / "config.toml")


def refusal(*args: Any, **kwargs: Any) -> list[str]:
    """The errors: a line each, or the only one in the first line."""
    with pytest.raises(UsageError) as caught:
        load_settings(*args, **kwargs)
    assert caught.value.exit_code == 2
    first, *lines = str(caught.value).splitlines()
    return [line.strip() for line in lines] or [re.sub(r"^settings( \(file [^)]*\))?: ", "", first)]


def test_the_later_overrules_the_earlier_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(tmp_path, 'root = "file"\n[gates]\nmin_recall = 0.1\nmax_failure_rate = 0.1\n[index]\nkind = "f"')
    monkeypatch.setenv("LIKENESS_GATES__MIN_RECALL", "0.2")
    monkeypatch.setenv("LIKENESS_INDEX__KIND", "environment")
    settings = load_settings(config, {"index.kind": "flag", "root": None}, ["gates.max_withdraw_rate=0.3"])
    assert settings.root == "file"  # a flag that was not given says nothing
    assert (settings.gates.max_failure_rate, settings.gates.min_recall, settings.gates.max_withdraw_rate) == (
        0.1,
        0.2,
        0.3,
    )
    assert settings.index.kind == "flag"
    assert settings.index.keep_builds == 5


def test_set_overrules_a_flag_of_the_same_key() -> None:
    assert load_settings(None, {"root": "a"}, ["root=b", "root=c"]).root == "c"


def test_every_error_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(tmp_path, '[limits]\nmax_bytes = "many"\n[gates]\nmin_recal = 0.5\n')
    monkeypatch.setenv("LIKENESS_EXTRACT__BATCH_SIZE", "0")
    monkeypatch.setenv("LIKENESS_INDX__KIND", "flat")
    lines = refusal(config, {"source.mode": "some"}, ["index.metric=cosin", "nonsense", "gates.max_failure_rate=1.5"])
    starts = sorted(line.partition(" ")[0].rstrip(":") for line in lines)
    assert starts == sorted(
        [
            "--set",
            "LIKENESS_INDX__KIND",
            "limits.max_bytes",
            "gates.min_recal",
            "extract.batch_size",
            "source.mode",
            "index.metric",
            "gates.max_failure_rate",
        ]
    )


def test_an_error_shows_the_value_and_the_file(tmp_path: Path) -> None:
    config = written(tmp_path, "[gates]\nmin_recall = 7")
    with pytest.raises(UsageError, match=r"(?s)config\.toml.*gates\.min_recall = 7"):
        load_settings(config)


@pytest.mark.parametrize(
    ("text", "wrong", "meant"),
    [
        ("[gates]\nmin_recal = 1", "gates.min_recal", "gates.min_recall"),
        ("[gate]\nmin_recall = 1", "gate.min_recall", "gates.min_recall"),
        ("rot = 'x'", "rot", "root"),
        ("min_recall = 1", "min_recall", "gates.min_recall"),
        ("[idnex.deep]\nkind = 'x'", "idnex.deep.kind", "index.kind"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, wrong: str, meant: str) -> None:
    assert refusal(written(tmp_path, text)) == [f"{wrong}: unknown key; did you mean {meant}?"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LIKENESS_GATE__MIN_RECALL", "gates.min_recall"),
        ("LIKENESS_GATES__MIN_RECAL", "gates.min_recall"),
        ("LIKENESS_ROOOT", "root"),
    ],
)
def test_an_unknown_variable_is_refused_too(name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0.5")
    (line,) = refusal()
    assert line.endswith(f"did you mean {meant}?")


def test_variables_that_are_no_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JARS", "PYTHON", "MASTER", "DRIVER_MEMORY", "MAVEN_REPOSITORY", "CLOTHING"):
        monkeypatch.setenv(f"LIKENESS_{name}", "x")
    assert load_settings() == Settings()


def test_a_variable_that_is_not_json_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_SOURCE", "/photos")
    (line,) = refusal(assignments=["root=x"])
    assert "source" in line
    assert "LIKENESS_SOURCE__URI" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"root = ", "not TOML"), (b"\xff\xfe", "not TOML"), (None, "No such file"), ("folder", "directory")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "x.toml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(UsageError, match=message) as caught:
        load_settings(str(path))
    assert str(path) in str(caught.value)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b'\xef\xbb\xbfroot = "x"')
    assert load_settings(str(tmp_path / "x.toml")).root == "x"


@pytest.mark.parametrize("text", ["root", "=x", " =x", ""])
def test_set_without_key_or_value(text: str) -> None:
    (line,) = refusal(assignments=[text])
    assert "not key=value" in line


def test_set_below_a_value() -> None:
    lines = refusal(assignments=["gates=3", "gates.min_recall=0.5"])
    assert any("gates is a value, not a table" in line for line in lines)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("root=2024", "2024"),
        ("root=true", "true"),
        ("root=1e3", "1e3"),
        ("root=a b=c#d", "a b=c#d"),
        ('root="a b"', "a b"),
        ("root=", ""),
        ("source.uri=2024-01-02", "2024-01-02"),
        ("date=2024-01-02", datetime.date(2024, 1, 2)),
        ('date="2024-01-02"', datetime.date(2024, 1, 2)),
        ("limits.max_bytes=1_000", 1000),
        ("gates.min_recall=1", 1.0),
        ("warehouse.options.fs.s3a.endpoint=9000", {"fs.s3a.endpoint": "9000"}),
    ],
)
def test_values_as_typed(assignment: str, value: object) -> None:
    loaded: Any = load_settings(assignments=[assignment])
    for part in assignment.partition("=")[0].split(".")[:2]:
        loaded = getattr(loaded, part)
    assert loaded == value
    assert type(loaded) is type(value)


def test_times_without_end_are_refused() -> None:
    # threads cannot wait for ever: they raise OverflowError
    (line,) = refusal(assignments=["limits.decode_timeout_s=inf"])
    assert line.startswith("limits.decode_timeout_s = inf")


def models(model: type[BaseModel] = Settings) -> Mapping[str, type[BaseModel]]:
    inner = {
        name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    return {"": model, **inner}


@pytest.mark.parametrize("name", models())
def test_settings_are_frozen(name: str) -> None:
    settings = load_settings()
    concern = getattr(settings, name) if name else settings
    field = next(iter(type(concern).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(concern, field, getattr(concern, field))


def test_every_known_key_is_a_described_setting_that_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = setting_fields()
    assert len(fields) > 25
    settings = load_settings()
    for key, field in fields.items():
        assert field.description, f"{key} has no description"
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        if not isinstance(value, dict):
            text = str(list(value) if isinstance(value, tuple) else value)
            monkeypatch.setenv("LIKENESS_" + key.upper().replace(".", "__"), text)
    assert load_settings() == settings  # every key has its variable, and every default passes its own check


def test_the_sum_of_all_models_is_known() -> None:
    expected = {
        f"{prefix}.{name}" if prefix else name
        for prefix, model in models().items()
        for name in model.model_fields
        if prefix or name not in models()
    }
    assert set(setting_fields()) == expected
