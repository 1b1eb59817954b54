"""Backbones of other packages: found by their entry point, and told where they cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = """
from dataclasses import replace
from likeness.models.backbones.hog import BACKBONES

MINE = replace(BACKBONES[0], name="mine", doc="my own gradients")
TAKEN = (replace(MINE, name="hog"),)
NONE = 3
"""


def run_cli(folder: Path, value: str, *words: str) -> "subprocess.CompletedProcess[str]":
    (folder / "plugged.py").write_text(PLUGIN)
    (folder / "plugged-1.dist-info").mkdir()
    (folder / "plugged-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1\n")
    (folder / "plugged-1.dist-info" / "entry_points.txt").write_text(f"[likeness.backbones]\nmine = {value}\n")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "likeness.cli", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_backbone_of_ones_own(tmp_path: Path) -> None:
    process = run_cli(tmp_path, "plugged:MINE", "backbones", "show", "mine", "--json")
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["what"] == "my own gradients"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("plugged:TAKEN", "'hog' is no Backbone, or its name is taken"),
        ("plugged:NONE", "3 is no Backbone, or its name is taken"),
        ("plugged:ABSENT", "has no attribute 'ABSENT'"),
        ("nowhere:MINE", "No module named 'nowhere'"),
    ],
)
def test_one_that_cannot_be_had(tmp_path: Path, value: str, why: str) -> None:
    process = run_cli(tmp_path, value, "backbones")
    assert process.returncode == 1
    assert f"entry point mine = {value}: " in process.stderr
    assert why in process.stderr
    assert "Traceback" not in process.stderr
