"""The command `likeness`: what people and scripts ask of a root, without Spark.   [typer]"""

import os
import sys

# OpenBLAS's threads would wait for their next product at full speed, and the network for a free core
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")

from likeness.cli.app import app
from likeness.core.errors import LikenessError


def main() -> None:
    """Entry point: a LikenessError becomes one message and its exit code."""
    try:
        app()
    except LikenessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
