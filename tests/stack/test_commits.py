"""Commits of two processes at once on HDFS, whose rename refuses a name that is taken: none is lost, none fails."""

import subprocess
import sys
from typing import Any

import pytest
from tests.runs import PROJECT
from tests.spark.test_commits import OTHER, committed_rows, expected

from likeness.core.settings import load_settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def test_two_processes_lose_no_commit_on_hdfs(stack: Any) -> None:
    root = f"{stack.hdfs}/commits"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", OTHER, root, who],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for who in ("here", "there")
    ]
    for run in runs:
        output, _ = run.communicate(timeout=500)
        assert run.returncode == 0, output
    assert committed_rows(load_settings(None, {"root": root})) == expected("here", "there")
