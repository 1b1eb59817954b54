"""Docs that are compared with the code: jobs, commands, settings, tables, variables and the README's commands."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from likeness.cli.app import app
from likeness.core.settings import document, load_settings
from likeness.storage.tables import TABLES

PROJECT = Path(__file__).parents[1]
OPERATING = (PROJECT / "docs" / "operating.md").read_text(encoding="utf-8")
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def _commands(group=None, prefix: str = "") -> list[str]:
    found = []
    for name, command in (group or get_command(app)).commands.items():
        nested = getattr(command, "commands", None)
        found += _commands(command, f"{prefix}{name} ") if nested else [prefix + name]
    return found


@pytest.mark.parametrize("job", sorted(path.stem.replace("_", "-") for path in (PROJECT / "jobs").glob("*.py")))
def test_each_job_is_in_the_docs(job):
    assert f"| `{job}` |" in OPERATING


@pytest.mark.parametrize("command", _commands())
def test_each_command_is_in_the_docs(command):
    assert re.search(rf"`{command}[` ]", OPERATING)


def test_the_settings_in_the_docs_are_the_settings():
    inside = OPERATING.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    assert inside.strip() == document().strip(), "run `make schemas`"


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
