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
    # as `likeness.images` does for the jobs: pytest sets its own filters anew for each test
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


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260102)


@pytest.fixture(scope="session")
def stack() -> Iterator[Any]:
    """HDFS, YARN and HBase, started empty for this session and stopped at its end."""
    from tests.stack import local

    with local.running() as given:
        yield given
