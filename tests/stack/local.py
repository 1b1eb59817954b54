"""The stack of deploy/local, in a folder and on ports of the tests' own."""

import importlib.util
import os
import sys
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


def of_the_tests() -> Any:
    """A stack whose class paths are those of `make stack-up`."""
    port = int(os.environ.get("LIKENESS_TEST_STACK_PORT", "21800"))
    return module().Stack(PROJECT / "var" / "stack-test", port, PROJECT / "var" / "stack" / "jars")
