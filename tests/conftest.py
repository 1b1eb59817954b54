"""What all tests share: the sample, one photo of it, a seeded generator, and a hypothesis that repeats itself."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

QUICK_JVM = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"

hypothesis.settings.register_profile("likeness", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("likeness")


def pytest_configure(config: pytest.Config) -> None:
    # as `likeness.images.image` does for the jobs: pytest sets its own filters anew for each test
    config.addinivalue_line("filterwarnings", r"ignore::UserWarning:PIL\.")
    # a JVM that works for a minute spends most of it on compiling well: two side by side take 0.63 of the time without
    os.environ.setdefault("PYSPARK_SUBMIT_ARGS", f"--driver-java-options '{QUICK_JVM}' pyspark-shell")
    os.environ.setdefault("SPARK_SUBMIT_OPTS", QUICK_JVM)


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
        Image.Image.resize = lambda *given, **named: 1 / 0
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
def stack() -> Iterator[Any]:
    """HDFS, YARN and HBase, started empty for this session and stopped at its end."""
    from tests.stack import local

    with local.running() as given:
        yield given
