"""make stack-up, stack-status and stack-down."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.stack import local

pytestmark = pytest.mark.stack


def test_every_server_is_up_and_listens_on_this_machine_alone(stack: Any) -> None:
    psutil = pytest.importorskip("psutil")
    rows = stack.status()
    assert {state for _, state, *_ in rows} == {"up"}
    names = {name for name, *_ in rows}
    assert {"namenode", "datanode1", "datanode2", "resourcemanager", "nodemanager", "zookeeper"} <= names
    assert {"hmaster", "regionserver1", "regionserver2", "thrift1"} <= names
    for name in names:
        listens = [c.laddr.ip for c in psutil.Process(stack.pid(name)).net_connections() if c.status == "LISTEN"]
        assert listens, name
        assert {ip.removeprefix("::ffff:") for ip in listens} == {"127.0.0.1"}, name


def test_up_again_starts_nothing(stack: Any) -> None:
    before = [row[2] for row in stack.status()]
    stack.up()
    assert [row[2] for row in stack.status()] == before


def test_a_dead_server_is_named_and_started_again(stack: Any) -> None:
    os.kill(stack.pid("datanode3"), signal.SIGKILL)
    while stack.pid("datanode3"):
        pass
    assert {name: state for name, state, *_ in stack.status()}["datanode3"] == "dead"
    stack.up()
    assert {state for _, state, *_ in stack.status()} == {"up"}


def listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    module = local.module()
    # below the ports that any connection may be given, where nothing else listens
    port = next(p for p in range(15_010, 32_000, 20) if not any(listening(q) for q in range(p - 10, p + 1)))
    with socket.create_server(("127.0.0.1", port)):
        stack = module.Stack(tmp_path, port - 10)  # the first port of datanode1
        with pytest.raises(module.StackError, match=rf"port {port} \(datanode1, data\) is in use"):
            stack.up()
    assert not (tmp_path / "run").exists()
