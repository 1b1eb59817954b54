"""The command line: roots that are not there, stores that do not answer, help, version, completion, and no colours."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from likeness import __version__
from likeness.cli import main
from likeness.cli.app import app

COMMAND = [sys.executable, "-m", "likeness.cli"]
WITHOUT_ROOT = {
    "serve": "",
    "leaf": "",
    "search": "photo.jpg",
    "status": "",
    "plan": "",
    "verify": "",
    "export": "out.parquet",
    "runs list": "",
    "runs show": "last",
    "failures list": "",
    "failures export": "out.csv",
    "rollback": "",
    "hide": "x",
    "show": "",
    "forget": "x",
    "retry-failed": "",
    "copy": "elsewhere",
    "unlock": "",
    "evaluate": "--judgements photo.jpg",
    "compare": "",
    "robustness": "",
    "models list": "",
    "models show": "x",
    "models promote": "x",
    "models rollback": "x",
    "models freeze": "x",
}
"""Every command that works on a root, with the arguments that it needs."""
OF_NO_ROOT = {"key", "config show", "config validate", "hbase-init", "profile", "classify", "backbones", "weights"}


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process."""

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["likeness", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return Ended(int(caught.value.code or 0), *capsys.readouterr())

    return run


def commands() -> set[str]:
    names = set[str]()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        names |= {f"{name} {one}" for one in inner} if name not in OF_NO_ROOT and inner else {name}
    return names


def test_every_command_is_tried() -> None:
    assert commands() - {"config show", "config validate"} - {"config"} == (WITHOUT_ROOT.keys() | OF_NO_ROOT) - {
        "config show",
        "config validate",
    }


@pytest.mark.parametrize("name", WITHOUT_ROOT)
def test_a_root_that_is_not_there_is_said(
    call: Call, name: str, photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(photo)
    done = call(*name.split(), *WITHOUT_ROOT[name].split(), "--root", str(tmp_path / "none"))
    assert done.code == 1, done.err
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: root {tmp_path}/none does not exist; ")
    assert "nightly" in line
    assert not done.out
    assert not (tmp_path / "none").exists()


def test_a_root_that_is_a_file_is_said(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = call("status", "--root", str(tmp_path / "file"))
    assert (done.code, "is a file; name a folder" in done.err) == (2, True)


def test_a_plan_needs_no_root_if_it_has_a_source(call: Call, tmp_path: Path, sample: Path) -> None:
    done = call("plan", "--root", str(tmp_path / "new"), "--source", str(sample), "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"][0]["count"] == 160


def test_an_empty_root_is_not_confidently_well(call: Call, tmp_path: Path) -> None:
    for words, said in (
        ("runs list", "has no runs yet"),
        ("failures list", "has no runs yet"),
        ("show", "no product of root"),
        ("status", "has no photos yet"),
    ):
        done = call(*words.split(), "--root", str(tmp_path))
        assert (done.code, said in done.out) == (0, True), done.out + done.err


def test_a_dead_hdfs_is_one_line(call: Call) -> None:
    done = call("status", "--root", "hdfs://127.0.0.1:1/x")
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("error: root hdfs://127.0.0.1:1/x cannot be read: HDFS does not answer")


def test_an_error_of_the_disk_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("a file in place of a folder")
    (tmp_path / "builds").mkdir()
    (tmp_path / "builds" / "CURRENT").mkdir()
    done = call("status", "--root", str(tmp_path))
    assert done.code == 1, done.out
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("error: ")


def test_version_and_help() -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["--version"]).output == f"likeness {__version__}\n"
    assert runner.invoke(app, ["-h"]).output == runner.invoke(app, ["--help"]).output
    for name in ("search", "runs", "runs list", "models promote"):
        result = runner.invoke(app, [*name.split(), "-h"])
        assert (result.exit_code, "Usage:" in result.output) == (0, True)


def test_the_help_groups_commands() -> None:
    page = CliRunner().invoke(app, ["--help"]).output
    sections = re.findall(r"^(\w[\w ]+):\n((?:  .*\n)+)", page, re.MULTILINE)
    panels = {title: re.findall(r"^  ([a-z-]+) ", body, re.MULTILINE) for title, body in sections[1:]}
    assert list(panels) == ["Search and serve", "Look at a root", "Change a root", "Measure", "Networks and models"]
    assert sorted(name for names in panels.values() for name in names) == sorted(get_command(app).commands)  # type: ignore[attr-defined]
    assert "..." not in page.partition("Commands")[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    words = {"COMP_WORDS": "likeness fail", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "likeness fail"}
    script = str(Path(sys.executable).with_name("likeness"))
    done = subprocess.run(
        [script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | words | {"_LIKENESS_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    )
    assert "failures" in done.stdout, done.stderr


def drawn(root: Path, **environment: str) -> str:
    """What `likeness backbones` writes on a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "backbones"], stdout=child, stderr=child, env=os.environ | {"TERM": "xterm-256color"} | environment
    )
    os.close(child)
    written = b""
    while True:
        try:
            block = os.read(parent, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not block:
            break
        written += block
    os.close(parent)
    assert process.wait(60) == 0
    return written.decode()


def test_no_color(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in drawn(tmp_path)
    assert "\x1b[" not in drawn(tmp_path, NO_COLOR="1")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("", "--product ID"),
        ("photo.jpg --product x", "not both"),
        ("--product x --box 0,0,1,1", "--box"),
        ("--product x --look turned", "--look"),
        ("none.jpg", "none.jpg: No such file"),
    ],
)
def test_a_search_for_nothing_is_refused(call: Call, words: str, named: str, tmp_path: Path) -> None:
    done = call("search", *words.split(), "--root", str(tmp_path))
    assert done.code == 2
    assert named in done.err
