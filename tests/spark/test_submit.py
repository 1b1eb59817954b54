"""The wrapper with the real jobs: exit codes of the command contract come through spark-submit."""

import os
import subprocess
import sys

import pytest

from .conftest import PROJECT, SAMPLE, take


def _submit(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["./spark-submit.sh", *words],
        cwd=PROJECT,
        env=os.environ | {"LIKENESS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_a_gate_is_exit_code_3(tmp_path, model_cache):
    source = take(tmp_path / "photos", "hat", count=2)
    (source / "hat" / "broken.jpg").write_bytes(b"no photo")
    done = _submit("ingest", "--source", str(source), "--root", str(tmp_path / "root"))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "gates.max_failure_rate" in done.stdout + done.stderr


def test_bad_settings_are_exit_code_2(tmp_path):
    done = _submit("nightly", "--source", str(SAMPLE), "--root", str(tmp_path / "root"), "--set", "gates.min_recal=2")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "did you mean gates.min_recall?" in done.stdout + done.stderr
    assert not (tmp_path / "root").exists()


def test_help_needs_no_spark():
    done = _submit("nightly", "--help")
    assert done.returncode == 0
    assert "--source-mode" in done.stdout
    assert "spark" not in done.stderr.lower()
