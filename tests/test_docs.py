"""Docs that are compared with the code: jobs, commands, settings, tables, modules, terms and the README's commands."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from likeness.cli.app import app
from likeness.core.settings import load_settings, settings_table
from likeness.storage.tables import TABLES

PROJECT = Path(__file__).parents[1]
OPERATING = (PROJECT / "docs" / "operating.md").read_text(encoding="utf-8")
README = (PROJECT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
EXTENDING = (PROJECT / "docs" / "extending.md").read_text(encoding="utf-8")
GLOSSARY = (PROJECT / "docs" / "glossary.md").read_text(encoding="utf-8")
PACKAGES = sorted(path.name for path in (PROJECT / "lib" / "likeness").iterdir() if (path / "__init__.py").exists())
MODULE = rf"`((?:(?:{'|'.join(PACKAGES)})/|jobs/|tests/)[\w/]*(?:\.py)?)`"
"""A path below lib/likeness, or below the project for jobs and tests."""


def _commands(group=None, prefix: str = "") -> list[str]:
    names = []
    for name, command in (group or get_command(app)).commands.items():
        nested = getattr(command, "commands", None)
        names += _commands(command, f"{prefix}{name} ") if nested else [prefix + name]
    return names


@pytest.mark.parametrize("job", sorted(path.stem.replace("_", "-") for path in (PROJECT / "jobs").glob("*.py")))
def test_each_job_is_in_the_docs(job):
    assert f"| `{job}` |" in OPERATING


@pytest.mark.parametrize("command", _commands())
def test_each_command_is_in_the_docs(command):
    assert re.search(rf"`{command}[` ]", OPERATING)


def test_the_settings_in_the_docs_are_the_settings():
    inside = OPERATING.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    assert inside.strip() == settings_table().strip(), "run `make schemas`"


@pytest.mark.parametrize("table", [table.name for table in TABLES])
def test_each_table_is_in_the_docs(table):
    assert f"`{table}`" in OPERATING


@pytest.mark.parametrize("name", ["embedded.toml", "cluster.toml"])
def test_the_configurations_shipped_are_valid(name):
    settings = load_settings(str(PROJECT / "deploy" / "conf" / name))
    assert settings.extract.space == ("alexnet.fc6" if name == "cluster.toml" else "efficientnet_lite0.pool")


def test_the_embedded_configuration_is_the_default():
    assert load_settings(str(PROJECT / "deploy" / "conf" / "embedded.toml")) == load_settings()


def test_the_files_that_the_docs_name_exist():
    for page in [PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in link or (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", [README, ARCHITECTURE, EXTENDING], ids=["README", "architecture", "extending"])
def test_the_modules_that_the_docs_name_exist(page):
    """Each module or package exists, or `(new)` stands after it; each class or function before one is defined there."""
    for path, new in re.findall(rf"{MODULE}( \(new\))?", page):
        assert _place(path).exists() != bool(new), path
    for name, path, new in re.findall(rf"`(\w+)`(?:,\s+|\s+\(){MODULE}( \(new\))?", page):
        if new or not path.endswith(".py"):
            continue
        assert name in _defined(_place(path)), f"{path} does not define {name}"


def _defined(path: Path) -> set[str]:
    """The classes, functions and constants of a module."""
    names = set[str]()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _place(path: str) -> Path:
    return PROJECT / path if path.startswith(("jobs/", "tests/")) else PROJECT / "lib" / "likeness" / path


def test_the_layers_in_the_docs_are_the_layers():
    contract = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = [set(layer.split(" | ")) for layer in contract["contracts"][0]["layers"]]
    rows = re.findall(r"^\| (\d) \| `(\w+)/` \|", ARCHITECTURE, re.M)
    assert [{name for number, name in rows if int(number) == n} for n in range(len(layers), 0, -1)] == layers
    assert len(rows) == len(PACKAGES) == 12


def test_the_glossary_has_a_line_a_term():
    assert "](docs/glossary.md)" in README
    lines = GLOSSARY.splitlines()
    assert lines[:2] == ["# Glossary", ""]
    terms = [re.fullmatch(r"- \*\*([\w() -]+)\*\*: .+\.", line) for line in lines[2:]]
    assert all(terms), [line for line, term in zip(lines[2:], terms, strict=True) if not term]
    names = [term[1].lower() for term in terms if term]
    assert names == sorted(set(names))
    assert len(names) >= 40


def test_the_commands_in_the_readme_are_real():
    """Each command line names a job, a make target or a command that exists, and files that are there."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
    assert "./spark-submit.sh nightly" in lines
    assert "make test" in lines
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M)
    for line in lines:
        program, first, *rest = shlex.split(line)
        if program == "make":
            assert first in targets
        elif program == "./spark-submit.sh":
            assert (PROJECT / "jobs" / f"{first.replace('-', '_')}.py").exists()
        else:
            assert program == ".venv/bin/likeness"
            assert first in {command.name or command.callback.__name__ for command in app.registered_commands}
            assert first != "search" or (PROJECT / rest[0]).exists()


def test_every_decision_says_what_was_decided():
    for page in sorted((PROJECT / "docs" / "decisions").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for heading in ("## Context", "## Options", "## Decision", "## Consequences"):
            assert heading in text, f"{page.name}: {heading}"
