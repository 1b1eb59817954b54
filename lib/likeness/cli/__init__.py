"""The command `likeness`: inspects, searches and serves a root, without Spark.   [typer]"""

import os
import sys

# idle threads of OpenBLAS would spin, and take a core from the network
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

from likeness.cli.app import app
from likeness.core.errors import LikenessError


def main() -> None:
    """Runs the command; a LikenessError, or an error of a disk or a store, becomes one message and an exit code."""
    try:
        app()
    except LikenessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
