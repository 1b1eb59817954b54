"""What all tests share: the sample, one photo of it, a seeded generator, quick JVMs, and a repeatable hypothesis."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from tests import jvm

hypothesis.settings.register_profile("likeness", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("likeness")


def pytest_configure(config: pytest.Config) -> None:
    # as `likeness.images.image` does for the jobs: pytest sets its own filters anew for each test
    config.addinivalue_line("filterwarnings", r"ignore::UserWarning:PIL\.")
    os.environ.setdefault("SPARK_SUBMIT_OPTS", jvm.OPTIONS)
    if config.getoption("numprocesses", None):  # threads of processes that test side by side would wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        if not hasattr(config, "workerinput"):  # made while the processes collect their tests
            making = contextlib.ExitStack()
            making.enter_context(jvm.making_archive())
            config.add_cleanup(making.close)


SECONDS = {
    "stack": 1300,
    "serving": 1000,
    "spark/test_training": 360,
    "spark/test_processes": 300,
    "spark/test_upkeep": 230,
    "spark/test_backfill": 215,
    "spark/test_changes": 180,
    "unit/test_extractor": 120,
    "spark/test_nightly": 115,
    "spark/test_full": 90,
    "spark/test_growth": 65,
    "unit/test_training": 60,
    "spark/test_evaluation": 45,
    "spark/test_commits": 40,
}
"""What the longest groups of tests take, roughly: processes that test side by side end together if these come first."""
FIRST = "unit/test_backbone_layers"
"""A long group that needs no Spark: one process has work while the archive of classes is made."""
STACK = re.compile(r"tests/(stack/|contract/.*\[(hdfs|hbase)[-\]])")
"""The ids of tests that need the stack, and of one or two that only look so."""
STOP_STACK = pytest.StashKey[contextlib.ExitStack]()


def group(nodeid: str) -> str:
    """The name of the tests that run in one process together with this one, for they share what is expensive."""
    path = nodeid.partition("::")[0].removeprefix("tests/").removesuffix(".py")
    return "stack" if STACK.match(nodeid) else "serving" if path.startswith("serving/") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Makes `--dist loadscope` give each process a group at a time."""
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # --dist loadgroup of xdist 3.8 does nothing under pytest 9.2
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests: the longest groups first, but for one that can begin at once."""
    for item in items:
        assert group(item.nodeid) == "stack" or not item.get_closest_marker("stack"), f"{item.nodeid}: see STACK"
    items.sort(key=lambda item: (group(item.nodeid) != FIRST, -SECONDS.get(group(item.nodeid), 0)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stops the stack after its last test: its memory and its settings of Hadoop are not for other tests."""
    if STOP_STACK in item.config.stash and not (nextitem and group(nextitem.nodeid) == "stack"):
        item.config.stash[STOP_STACK].close()


@pytest.fixture(scope="session")
def quick_jvm() -> None:
    """Every Spark from here on starts from an archive of its classes, which the first run makes."""
    jvm.use_archive()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder


@pytest.fixture(scope="session")
def model_cache(shared: Path) -> Path:
    """One folder of converted networks: each is converted once for all tests."""
    return shared / "models"


@pytest.fixture(scope="session")
def sample() -> Path:
    """The bundled photos: a folder a category, and catalogue.csv."""
    return Path(__file__).parents[1] / "deploy" / "sample"


@pytest.fixture(scope="session")
def photo(sample: Path) -> bytes:
    """One photo of the sample, a JPEG."""
    return min((sample / "hat").iterdir()).read_bytes()


TRICKS = """
import os, signal, time
from PIL import Image, ImageFile

_open, _load = Image.open, ImageFile.ImageFile.load


def open(file, *args, **kwargs):
    image = _open(file, *args, **kwargs)
    image.trick = file.getvalue().rpartition(b"#")[2].decode(errors="replace") if hasattr(file, "getvalue") else ""
    return image


def load(image):
    trick = getattr(image, "trick", "")
    if trick == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if trick == "leave":
        os._exit(3)
    if trick == "hang":
        time.sleep(1000)
    if trick == "slow":
        time.sleep(0.3)
    if trick == "bug":
        Image.Image.resize = lambda *arguments, **named: 1 / 0
    return _load(image)


Image.open, ImageFile.ImageFile.load = open, load
"""
"""What a photo that ends with `#crash`, `#hang` ... does to the process that decodes it; its header may be read."""


@pytest.fixture
def tricks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started in this test fall for `TRICKS`."""
    (tmp_path / "tricks").mkdir()
    (tmp_path / "tricks" / "sitecustomize.py").write_text(TRICKS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "tricks"), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260102)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, quick_jvm: None) -> Iterator[Any]:
    """HDFS, YARN, HBase and a driver of Spark, started for this session and stopped after the last of their tests."""
    from tests.stack import driver, local

    with contextlib.ExitStack() as running:
        request.config.stash[STOP_STACK] = running
        stack = running.enter_context(local.running())
        running.enter_context(driver.running(stack.home / "logs" / "driver.out"))
        yield stack
