"""A long-lived Spark driver on this machine: jobs run in its JVM one after another, and only the first is slow.

`python tests/stack/driver.py PROGRAM [arguments]` has the driver of LIKENESS_TEST_DRIVER run a program, a file or a
module: it prints what the program prints, and ends with its exit code.
"""

import contextlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[2]
ADDRESS = "LIKENESS_TEST_DRIVER"
ENDED = "\0exit code "


def command(program: str, *arguments: str) -> list[str]:
    """The command that has the driver run a program."""
    return [sys.executable, "-S", __file__, program, *arguments]  # -S: this client needs no package


@contextlib.contextmanager
def running(log: Path) -> Iterator[None]:
    """A driver with the environment of now, named in the environment. What its JVM prints is in `log`."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener, log.open("w") as out:
        path = f"{folder}/driver"
        listener.bind(path)
        listener.listen()
        program = f"from tests.stack import driver; driver.serve({listener.fileno()})"
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=PROJECT,
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
        ):
            os.environ[ADDRESS] = path
            yield
            del os.environ[ADDRESS]


def serve(listener: int) -> None:
    """Runs the programs that clients name, one at a time, until the process ends that started this one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.socket(fileno=listener) as server:
        while True:
            connection, _ = server.accept()
            # a client that was killed takes no output, and the file has some left when it is closed
            with contextlib.suppress(ConnectionError), connection, connection.makefile("rw", buffering=1) as client:
                words = json.loads(client.readline())
                with contextlib.redirect_stdout(client), contextlib.redirect_stderr(client):
                    code = _run(words)
                client.write(f"{ENDED}{code}\n")


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _run(words: Sequence[str]) -> int:
    sys.argv = list(words)
    try:
        if words[0].endswith(".py"):
            runpy.run_path(words[0], run_name="__main__")
        else:
            runpy.run_module(words[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def ask(words: Sequence[str]) -> int:
    """Has the driver run a program; prints its lines and returns its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[ADDRESS])
        with connection.makefile("rw") as driver:
            driver.write(json.dumps(words) + "\n")
            driver.flush()
            for line in driver:
                if line.startswith(ENDED):
                    return int(line.removeprefix(ENDED))
                print(line, end="", flush=True)
    print(f"the driver died while it ran {' '.join(words)}")
    return 1


if __name__ == "__main__":
    sys.exit(ask(sys.argv[1:]))
