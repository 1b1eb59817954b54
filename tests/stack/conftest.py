"""One source for the tests that run jobs on the stack, and what an undisturbed run makes of it."""

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import happybase
import pyspark
import pytest
from tests.bench.photos import variants
from tests.jvm import iceberg
from tests.runs import PROJECT, state

from likeness import storage
from likeness.spark.submit.yarn import _spark_archive
from likeness.storage.hbase_layout import FAMILIES

from .places import YARN, Place, place

PHOTOS = 60


@pytest.fixture(scope="module", autouse=True)
def emptied(stack: Any) -> Iterator[None]:
    """A module leaves no tables: whenever a server comes back, HBase would recover all their regions."""
    yield
    stack.up()
    connection = thrift(stack)
    for table in connection.tables():
        connection.delete_table(table, disable=True)
    connection.close()


def thrift(stack: Any) -> happybase.Connection:
    """A connection to HBase, with the patience that changes of tables take on a busy machine."""
    host, _, port = stack.address("thrift1").partition(":")
    return happybase.Connection(host, int(port), timeout=120_000)


@pytest.fixture(scope="session")
def yarn(stack: Any) -> tuple[str, ...]:
    """Options of jobs on YARN. Spark's jars are on HDFS once for all; test_cluster.py has a job find them there."""
    archive = _spark_archive(Path(pyspark.__file__).parent, iceberg(), f"{stack.hdfs}/root")
    return (*YARN, "--conf", f"spark.yarn.archive={archive}")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos.tar, and a cache of networks."""
    folder = tmp_path_factory.mktemp("faults")
    photos = variants(PROJECT / "deploy" / "sample", folder / "photos", PHOTOS)
    with tarfile.open(folder / "photos.tar", "w") as tar:
        tar.add(photos, ".")
    return folder


@pytest.fixture(scope="session")
def undisturbed(folder: Path) -> tuple[Any, ...]:
    """What a run on this machine leaves that nothing befalls."""
    embedded = place(str(folder / "photos.tar"), str(folder / "root"), folder / "cache")
    with embedded.start("nightly") as job:
        assert job.code() == 0, job.output
    return state(embedded.settings)


@pytest.fixture
def on_cluster(stack: Any, folder: Path, request: pytest.FixtureRequest) -> Place:
    """The same source on HDFS, with a root and tables of the test's own."""
    return on_stack(stack, folder, request.node.name.removeprefix("test_"))


def on_stack(stack: Any, folder: Path, name: str) -> Place:
    """The same source on HDFS, with a root and tables of this name."""
    source = f"{stack.hdfs}/faults/photos.tar"
    storage.files(source).upload(str(folder / "photos.tar"), source)
    connection = thrift(stack)
    for table, family in FAMILIES.items():  # not split, which takes a JVM each
        connection.create_table(f"{name}_{table}", {family: {}})
    connection.close()
    return place(source, f"{stack.hdfs}/faults/{name}", folder / "cache", f"{stack.hbase}/{name}")


@pytest.fixture(scope="session")
def indexed(stack: Any, folder: Path) -> Place:
    """The same source on HDFS, indexed by a run that saw a DataNode killed; all servers are up again."""
    indexed = on_stack(stack, folder, "indexed")
    with indexed.start("nightly") as job:
        job.until("extract: committed 20 of")
        stack.stop("datanode1", kill=True)
        assert job.code() == 0, job.output
    stack.up()
    return indexed
