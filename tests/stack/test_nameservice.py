"""A root on a nameservice of two NameNodes is found while the first of them is down."""

from pathlib import Path
from typing import Any

import pytest
from tests.runs import assert_equal, state

from likeness import storage

from .places import LOCAL, place

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


def configuration(properties: dict[str, str]) -> str:
    rows = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in properties.items())
    return f"<configuration>{rows}</configuration>"


@pytest.fixture
def nameservice(stack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """`hdfs://shop`, whose first NameNode does not answer."""
    provider = "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider"
    hdfs = {
        "dfs.nameservices": "shop",
        "dfs.ha.namenodes.shop": "nn1,nn2",
        "dfs.namenode.rpc-address.shop.nn1": "127.0.0.1:1",
        "dfs.namenode.rpc-address.shop.nn2": stack.address("namenode"),
        "dfs.client.failover.proxy.provider.shop": provider,
        "dfs.replication": "2",
    }
    (tmp_path / "core-site.xml").write_text(configuration({"fs.defaultFS": "hdfs://shop"}))
    (tmp_path / "hdfs-site.xml").write_text(configuration(hdfs))
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    return "hdfs://shop"


def test_a_nightly_run_on_a_nameservice(
    nameservice: str, folder: Path, undisturbed: tuple[Any, ...], stack: Any
) -> None:
    source = f"{nameservice}/ha/photos.tar"
    storage.files(source).upload(str(folder / "photos.tar"), source)
    store = f"{stack.hbase}/nameservice"
    storage.keyed(store, create=True).close()
    here = place(source, f"{nameservice}/ha/root", folder / "cache", store)
    with here.start("nightly", LOCAL) as job:  # with this Hadoop configuration
        assert job.code() == 0, job.output
    assert_equal(state(here.settings), undisturbed)
