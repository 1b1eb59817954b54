"""The first start of a newcomer on a throwaway project: a real environment, pip and Ivy, and no network."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = "deploy/environment.py"
WAITING = "likeness: another process installs .venv; waiting for it\n"
JAR = "iceberg-spark-runtime-4.1_2.13-1.12.0.jar"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "likeness"
version = "0.1.0"
[project.optional-dependencies]
all = []
dev = []
"""

# A build backend of the project's own: pip takes its usual way and needs neither setuptools nor a network.
BACKEND = """
import pathlib, time, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    here = pathlib.Path(__file__).parent
    if (here / "broken").exists():
        raise RuntimeError("broken on purpose")
    until = time.monotonic() + 60
    while (here / "slow").exists() and time.monotonic() < until:
        (here / "building").touch()
        time.sleep(0.02)
    about = "likeness-0.1.0.dist-info/"
    files = {
        "likeness.py": "",
        "pyspark/__init__.py": "",
        about + "METADATA": "Metadata-Version: 2.1\\nName: likeness\\nVersion: 0.1.0\\n"
        "Provides-Extra: all\\nProvides-Extra: dev\\n",
        about + "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    with zipfile.ZipFile(pathlib.Path(folder, "likeness-0.1.0-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(about + "RECORD", "".join(f"{name},,\\n" for name in [*files, about + "RECORD"]))
    return "likeness-0.1.0-py3-none-any.whl"
"""

JOB = """\"\"\"Tries the failures again.\"\"\"
import os, sys
print(sys.argv[1:], __file__, os.getppid())
sys.exit(int(sys.argv[1]))
"""


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.stamp = root / ".venv" / "likeness-stamp.json"
        (root / "deploy").mkdir(parents=True)
        shutil.copy(ROOT / ENVIRONMENT, root / ENVIRONMENT)
        (root / "pyproject.toml").write_text(PYPROJECT)
        (root / "backend.py").write_text(BACKEND)
        (root / "constraints.txt").write_text("")
        (root / "given.jar").write_text("")

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, str(self.root / ENVIRONMENT), *flags]

    def environ(self, **changes: str | None) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
        merged = {**inherited, "LIKENESS_JARS": str(self.root / "given.jar"), **changes}
        return {name: value for name, value in merged.items() if value is not None}

    def start(self, *flags: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*flags), env=self.environ(**changes), capture_output=True, text=True, timeout=120
        )

    def background(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*flags), env=self.environ(), stderr=PIPE, text=True, start_new_session=True
        )

    @contextlib.contextmanager
    def interrupted(self, *flags: str) -> Iterator[subprocess.Popen[str]]:
        """A start that pip is in the middle of, as long as the context is open."""
        building = self.root / "building"
        building.unlink(missing_ok=True)
        (self.root / "slow").touch()
        with self.background(*flags) as started:
            deadline = time.monotonic() + 60
            while not building.exists():
                assert time.monotonic() < deadline, "pip never came to building"
                time.sleep(0.02)
            yield started
        (self.root / "slow").unlink()

    def module(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("environment", self.root / ENVIRONMENT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def imports(self) -> bool:
        python = self.root / ".venv" / "bin" / "python"
        return subprocess.run([python, "-c", "import likeness, pyspark"], cwd="/").returncode == 0


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, subprocess.CompletedProcess[str]]:
    project = Project(tmp_path_factory.mktemp("with space") / "project")
    return project, project.start()


@pytest.fixture
def built(first: tuple[Project, subprocess.CompletedProcess[str]]) -> Project:
    """An environment up to date and without `dev`, whatever the test before this one did to it."""
    project, _ = first
    assert project.start().returncode == 0
    project.stamp.write_text(project.stamp.read_text().replace('"dev"', '"all"'))
    return project


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def test_a_first_start_says_what_it_does(first: tuple[Project, subprocess.CompletedProcess[str]]) -> None:
    project, start = first
    assert start.returncode == 0, start.stderr
    assert start.stdout == ""
    assert "first start" in start.stderr
    assert project.imports()


def test_a_second_start_does_nothing(built: Project) -> None:
    stamped, began = built.stamp.stat().st_mtime_ns, time.monotonic()
    second = built.start()
    assert time.monotonic() - began < 1
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert built.stamp.stat().st_mtime_ns == stamped


def test_what_was_made_is_printed_on_demand(built: Project) -> None:
    python, spark, jars = built.start("--print").stdout.splitlines()
    assert python == str(built.root / ".venv/bin/python")
    assert Path(spark, "__init__.py").is_file()
    assert jars == str(built.root / "given.jar")


def test_another_extra_is_added_on_top(built: Project) -> None:
    kept = built.root / ".venv" / "kept"
    kept.touch()
    added = built.start("--extra", "dev")
    assert "adding dev" in added.stderr
    assert kept.exists()
    assert built.start("--extra", "dev").stderr == ""
    assert built.start().stderr == ""


def test_changed_constraints_rebuild(built: Project) -> None:
    (built.root / ".venv" / "old").touch()
    (built.root / "constraints.txt").write_text("pyspark==4.1.4\n")
    again = built.start()
    assert again.returncode == 0, again.stderr
    assert "constraints.txt changed" in again.stderr
    assert not (built.root / ".venv" / "old").exists()
    assert built.start().stderr == ""


@pytest.mark.parametrize(("key", "reason"), [("python", "Python changed"), ("root", "the project was moved")])
def test_a_stamp_of_other_circumstances_is_not_trusted(built: Project, key: str, reason: str) -> None:
    environment = built.module()
    assert environment.inspect()[0] == ""
    stamp = built.stamp.read_text()
    built.stamp.write_text(stamp.replace(environment.state()[key], "/elsewhere"))
    assert environment.inspect()[0] == reason
    built.stamp.write_text(stamp)


def test_a_killed_installation_is_completed_by_the_next_start(built: Project) -> None:
    with built.interrupted("--extra", "dev") as started:
        started.send_signal(signal.SIGKILL)
        again = built.background()
        assert again.stderr
        assert again.stderr.readline() == WAITING, "the orphaned pip must be done before its folder is emptied"
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "the last installation was interrupted" in said
    assert built.imports()
    assert built.start().stderr == ""


def test_two_starts_at_once_after_a_stopped_one(built: Project) -> None:
    with built.interrupted("--extra", "dev") as started:
        os.killpg(started.pid, signal.SIGINT)
        _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert said.splitlines()[-1] == "likeness: stopped; the next start completes the installation"
    with built.background() as one, built.background() as two:
        waited, worked = sorted((start.communicate(timeout=120)[1] for start in (one, two)), key=len)
    assert (one.returncode, two.returncode) == (0, 0), worked + waited
    assert "the last installation was interrupted" in worked
    assert waited == WAITING
    assert built.imports()


def test_a_failing_pip_shows_the_end_of_its_log(bare: Project) -> None:
    (bare.root / "broken").touch()
    failed = bare.start()
    assert failed.returncode == 1
    assert "broken on purpose" in failed.stderr
    last = failed.stderr.splitlines()[-1]
    for expected in ("pip", "likeness-install.log", "PIP_INDEX_URL", "LIKENESS_PYTHON"):
        assert expected in last
    assert not bare.stamp.exists()


def test_a_hand_made_environment_is_left_alone(bare: Project) -> None:
    precious = bare.root / ".venv" / "precious"
    precious.parent.mkdir()
    precious.touch()
    refused = bare.start()
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert precious.exists()


def test_without_java_nothing_is_installed(bare: Project, tmp_path: Path) -> None:
    refused = bare.start(PATH=str(tmp_path), JAVA_HOME=None)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert "needs Java 17 to 21: none was found; install openjdk-17-jre-headless" in refused.stderr
    assert not (bare.root / ".venv").exists()


@pytest.mark.parametrize("version", ["1.8.0_412", "11.0.2", "25.0.3"])
@pytest.mark.parametrize("release", [True, False])
def test_another_java_is_refused(bare: Project, tmp_path: Path, version: str, release: bool) -> None:
    java = tmp_path / "home" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    if release:
        java.parents[1].joinpath("release").write_text(f'JAVA_VERSION="{version}"\n')
    refused = bare.start(PATH=str(java.parent), JAVA_HOME=None)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert f"{java} is {version}" in refused.stderr
    assert not (bare.root / ".venv").exists()


def test_wrong_settings_are_named_before_anything_is_made(bare: Project) -> None:
    for name, value in {
        "LIKENESS_JARS": "/nowhere/iceberg.jar",
        "LIKENESS_PYTHON": "/nowhere/python",
        "JAVA_HOME": "/nowhere",
    }.items():
        refused = bare.start(**{name: value})
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1
        assert name in refused.stderr
        assert value in refused.stderr
    assert not (bare.root / ".venv").exists()


@pytest.fixture
def with_ivy(built: Project) -> Project:
    """Lends the throwaway environment the Ivy of the Spark that these tests run with."""
    spark = importlib.util.find_spec("pyspark")
    assert spark is not None
    ivy = next(Path(str(spark.origin)).parent.glob("jars/ivy-*.jar"))
    home = Path(built.module().spark_home())
    (home / "jars").mkdir(exist_ok=True)
    (home / "jars" / ivy.name).unlink(missing_ok=True)
    (home / "jars" / ivy.name).symlink_to(ivy)
    shutil.rmtree(built.root / ".venv" / "jars", ignore_errors=True)
    return built


def mirror(folder: Path, content: bytes) -> str:
    jar = folder / "org/apache/iceberg/iceberg-spark-runtime-4.1_2.13/1.12.0" / JAR
    jar.parent.mkdir(parents=True)
    jar.write_bytes(content)
    return folder.as_uri() + "/"


def test_a_repository_out_of_reach_is_an_error_within_seconds(with_ivy: Project) -> None:
    began = time.monotonic()
    failed = with_ivy.start(LIKENESS_JARS=None, LIKENESS_MAVEN_REPOSITORY="https://me:secret@127.0.0.1:9/")
    assert time.monotonic() - began < 20
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    for expected in ("LIKENESS_JARS=", "LIKENESS_MAVEN_REPOSITORY=", "//127.0.0.1:9/", "Connection refused"):
        assert expected in last
    assert "secret" not in failed.stderr


def test_a_jar_of_other_bytes_is_not_taken(with_ivy: Project, tmp_path: Path) -> None:
    failed = with_ivy.start(LIKENESS_JARS=None, LIKENESS_MAVEN_REPOSITORY=mirror(tmp_path, b"other"))
    assert failed.returncode == 1
    assert "SHA-256" in failed.stderr
    assert not (with_ivy.root / ".venv" / "jars" / JAR).exists()


def test_the_jar_comes_from_a_mirror_once(with_ivy: Project, tmp_path: Path) -> None:
    script = with_ivy.root / ENVIRONMENT
    original, ours = with_ivy.module().JAR_SHA256, hashlib.sha256(b"ours").hexdigest()
    script.write_text(script.read_text().replace(original, ours))
    where = mirror(tmp_path, b"ours")
    try:
        fetched = with_ivy.start("--print", LIKENESS_JARS=None, LIKENESS_MAVEN_REPOSITORY=where)
        again = with_ivy.start("--print", LIKENESS_JARS=None, LIKENESS_MAVEN_REPOSITORY="https://127.0.0.1:9/")
    finally:
        shutil.copy(ROOT / ENVIRONMENT, script)
    assert fetched.returncode == 0, fetched.stderr
    jar = Path(fetched.stdout.splitlines()[2])
    assert jar.read_bytes() == b"ours"
    assert (again.returncode, again.stdout, again.stderr) == (0, fetched.stdout, "")
    assert not list((with_ivy.root / ".venv").glob("ivy-*"))


@pytest.fixture
def submit(bare: Project) -> Path:
    (bare.root / "jobs").mkdir()
    (bare.root / "jobs" / "retry_failed.py").write_text(JOB)
    shutil.copytree(ROOT / "deploy" / "conf", bare.root / "deploy" / "conf")
    return Path(shutil.copy(ROOT / "spark-submit.sh", bare.root))


@pytest.mark.parametrize("flags", [[], ["--help"], ["help"]])
def test_submit_lists_its_jobs(submit: Path, flags: list[str]) -> None:
    help_text = subprocess.run([submit, *flags], capture_output=True, text=True, cwd="/", check=True).stdout
    assert "usage: ./spark-submit.sh JOB" in help_text
    assert "retry-failed     Tries the failures again." in help_text
    assert not (submit.parent / ".venv").exists()


def test_submit_knows_no_other_job(submit: Path) -> None:
    refused = subprocess.run([submit, "retry-faild"], capture_output=True, text=True, cwd="/")
    assert refused.returncode == 2
    assert "no job retry-faild; did you mean retry-failed?" in refused.stderr
    assert refused.stdout == ""


def test_every_job_of_this_project_is_listed() -> None:
    help_text = subprocess.run([ROOT / "spark-submit.sh"], capture_output=True, text=True).stdout
    for job in ROOT.glob("jobs/[!_]*.py"):
        assert f"\n  {job.stem.replace('_', '-')} " in help_text


@pytest.mark.spark
def test_a_job_runs_quietly_and_its_exit_code_comes_through(submit: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "given.jar", "w").close()
    settings = {"LIKENESS_PYTHON": sys.executable, "LIKENESS_JARS": "given.jar", "SPARK_HOME": "/nowhere"}
    with subprocess.Popen(
        [submit, "retry-failed", "3", "a b", "--", "--driver-memory", "512m"],
        env={**os.environ, **settings}, cwd=tmp_path, stdout=PIPE, stderr=PIPE, text=True,
    ) as started:  # fmt: skip
        output, errors = started.communicate(timeout=120)
    assert started.returncode == 3, errors
    # The parent is the JVM: it has replaced the shell, so that a signal to the shell's process reaches it.
    assert output == f"['3', 'a b'] {submit.parent}/jobs/retry_failed.py {started.pid}\n"
    assert errors == ""
