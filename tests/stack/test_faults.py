"""What dies in the middle of a run costs nothing: the run, or the next one, ends with what an undisturbed one has."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runs import Job, assert_equal, eventually, extracting, keyed, state

from likeness import storage
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, RUNS

from . import driver, seed
from .places import Place, java, place, workers

pytestmark = [pytest.mark.stack, pytest.mark.kill, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def mended(stack: Any) -> Iterator[None]:
    """Every test finds all servers up."""
    yield
    stack.up()


def test_a_datanode_is_killed(indexed: Place, undisturbed: tuple[Any, ...]) -> None:
    """The fixture has killed one in the middle of the run."""
    assert_equal(state(indexed.settings), undisturbed)


def test_writes_outlive_a_datanode(stack: Any) -> None:
    """The NameNode names a dead DataNode until it misses its heartbeats: writes go on with the others."""
    uri = f"{stack.hdfs}/faults/written"
    files = storage.files(uri)
    files.write(uri, b"before")
    stack.stop("datanode1", kill=True)
    until, writes = time.monotonic() + 15, 0
    while time.monotonic() < until or writes < 5:
        data = np.random.default_rng(writes).bytes(3 << 20)
        files.write(uri, data)
        assert files.read(uri) == data
        writes += 1


def test_the_driver_is_killed_in_cluster_mode(
    stack: Any, yarn: Any, on_cluster: Place, undisturbed: tuple[Any, ...]
) -> None:
    with on_cluster.start("nightly", (*yarn, "--deploy-mode", "cluster")) as job:
        eventually(lambda: extracting(workers(stack)), job)
        java(workers(stack), "yarn.ApplicationMaster").kill()
        assert job.code() == 1
    assert "left no row: its driver did not start, or was killed" in job.output
    with on_cluster.start("nightly") as job:
        assert job.code() == 0, job.output
    assert_equal(state(on_cluster.settings), undisturbed)
    rows = TableReader(on_cluster.settings).read(RUNS).sort_by("started").to_pylist()
    assert [row["status"] for row in rows] == ["killed", "done"]


def test_hdfs_is_in_safe_mode_at_the_start(
    stack: Any, yarn: Any, on_cluster: Place, undisturbed: tuple[Any, ...]
) -> None:
    dfsadmin = [f"{stack.home}/bin/hdfs", "dfsadmin", "-safemode"]
    subprocess.run([*dfsadmin, "enter"], check=True)
    try:
        for options in ((), yarn):
            with on_cluster.start("nightly", options) as job:
                assert job.code(60) == 1
            assert "HDFS is in safe mode and refuses writes; wait for its end" in job.output
            assert "Traceback" not in job.output
    finally:
        subprocess.run([*dfsadmin, "leave"], check=True)
    with on_cluster.start("nightly") as job:
        assert job.code() == 0, job.output
    assert_equal(state(on_cluster.settings), undisturbed)


def test_hbase_is_down_at_the_start(stack: Any, on_cluster: Place, undisturbed: tuple[Any, ...]) -> None:
    for name in ("hmaster", "regionserver1", "regionserver2"):
        stack.stop(name, kill=True)
    begun = time.monotonic()
    with on_cluster.start("nightly") as job:
        job.until("check that HBase and its Thrift servers are up")
        assert time.monotonic() - begun < 30
        assert job.code() == 1
    assert f"error: keyed.uri = {on_cluster.settings.keyed.uri}: " in job.output
    stack.up()
    with on_cluster.start("load") as job:
        assert job.code() == 0, job.output
    assert_equal(state(on_cluster.settings), undisturbed)


@pytest.fixture(scope="module")
def wide(folder: Path) -> dict[str, np.ndarray]:
    """A root with many 4096-d vectors: seeded noise, for a load that takes its time."""
    with Job(driver.command(seed.__file__, str(folder / "wide"))) as job:
        assert job.code() == 0, job.output
    return keyed(seed.vectors())


@pytest.fixture
def while_loading(stack: Any, folder: Path, wide: dict[str, np.ndarray], request: pytest.FixtureRequest) -> Any:
    """while_loading(servers, fault): does something in the middle of a load, which must end as if it had not."""

    def check(servers: Sequence[str], fault: Callable[[], None]) -> None:
        name = request.node.name.removeprefix("test_")
        store_uri = f"hbase://{','.join(map(stack.address, servers))}/{name}?timeout_s=10"
        loaded = place("", str(folder / "wide"), folder / "cache", store_uri)
        with closing(storage.keyed(f"{stack.hbase}/{name}", create=True)) as store, loaded.start("load") as job:
            space = TableReader(loaded.settings).read(FEATURES, ("space",))["space"][0].as_py()
            eventually(lambda: next(store.scan_vectors(space), None), job)
            assert store.get_mark(f"vectors {space}") is None
            fault()
            assert job.code() == 0, job.output
            assert f"load: {seed.VECTORS} vectors" in job.output
            stored = {item.key: vector for item, vector in store.scan_vectors(space)}
        assert stored.keys() == wide.keys()
        assert all(stored[key].tobytes() == wide[key].tobytes() for key in wide)

    return check


def test_a_region_server_is_killed_in_the_middle_of_puts(stack: Any, while_loading: Any) -> None:
    while_loading(["thrift1", "thrift2"], lambda: stack.stop("regionserver1", kill=True))


def test_the_thrift_server_is_killed_and_comes_back(stack: Any, while_loading: Any) -> None:
    def fault() -> None:
        stack.stop("thrift1", kill=True)
        time.sleep(10)
        stack.start("thrift1")

    while_loading(["thrift1"], fault)


def test_one_of_two_thrift_servers_is_killed(stack: Any, while_loading: Any) -> None:
    while_loading(["thrift1", "thrift2"], lambda: stack.stop("thrift1", kill=True))
