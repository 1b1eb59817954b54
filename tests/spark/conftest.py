"""Roots, sources and runs for tests that need Spark; one session serves them all."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from likeness.core.settings import Settings, load_settings
from likeness.spark import jobs
from likeness.spark.session import open_session
from likeness.storage.table_reader import TableReader

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "deploy" / "sample"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.spark)


@pytest.fixture(scope="session", autouse=True)
def spark(quick_jvm: None) -> Iterator[Any]:
    session = open_session(Settings(), "tests")
    yield session
    session.stop()


@pytest.fixture
def configure(tmp_path: Path, model_cache: Path) -> Callable[..., Settings]:
    """configure(source, "key=value", ...): settings on a root of the test's own."""

    def make(source: Path | str, *assignments: str, root: Path | None = None) -> Settings:
        flags = {"root": str(root or tmp_path / "root"), "source.uri": str(source), "date": "2026-01-02"}
        return load_settings(None, flags, (f"extract.cache={model_cache}", *assignments))

    return make


def take(folder: Path, *names: str, start: int = 0, count: int = 3) -> Path:
    """A source: `count` photos of each named category of the sample."""
    for name in names or sorted(child.name for child in SAMPLE.iterdir() if child.is_dir()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for photo in sorted((SAMPLE / name).iterdir())[start : start + count]:
            shutil.copy2(photo, folder / name)
    return folder


def run(settings: Settings, job: Callable[[Settings], None] = jobs.nightly) -> dict[str, Any]:
    """Runs a job in this process; returns the facts it recorded."""
    job(settings)
    return last_run(settings)["facts"]


def last_run(settings: Settings) -> dict[str, Any]:
    import json

    from likeness.storage.tables import RUNS

    row = TableReader(settings).read(RUNS).sort_by("started").to_pylist()[-1]
    return row | {"facts": json.loads(row["facts"])}
