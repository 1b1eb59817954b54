"""The stack of deploy/local, in a folder and on ports of the tests' own."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]


def module() -> Any:
    """deploy/local/stack.py: a program beside its own modules, and no part of a package."""
    if "likeness_stack" not in sys.modules:
        folder = PROJECT / "deploy" / "local"
        sys.path.append(str(folder))
        spec = importlib.util.spec_from_file_location("likeness_stack", folder / "stack.py")
        assert spec
        assert spec.loader
        sys.modules[spec.name] = loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    return sys.modules["likeness_stack"]


@contextmanager
def running() -> Iterator[Any]:
    """A stack that is started empty, named in the environment, and stopped; its class paths are `make stack-up`'s.

    Its logs stay. Its data goes: three replicas of all that ran fill a disk.
    """
    port = int(os.environ.get("LIKENESS_TEST_STACK_PORT", "21800"))
    stack = module().Stack(PROJECT / "var" / "stack-test", port, PROJECT / "var" / "stack" / "jars")
    stack.down()
    _clear(stack, "data", "logs", "tmp")
    before = dict(os.environ)
    try:
        stack.up()
        os.environ |= {"HADOOP_CONF_DIR": f"{stack.home}/conf/hadoop", "PATH": f"{stack.home}/bin:{before['PATH']}"}
        yield stack
    finally:
        os.environ.clear()
        os.environ |= before
        for server in module().SERVERS:
            if server.home == "hbase":  # it would take its time to bring data in order that goes with it
                stack.stop(server.name, kill=True)
        stack.down()
        _clear(stack, "data", "tmp")


def _clear(stack: Any, *names: str) -> None:
    for name in names:
        shutil.rmtree(stack.home / name, ignore_errors=True)
