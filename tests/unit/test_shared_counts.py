"""Counts that processes share: buckets, what is held, and what is left of a process that was killed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from likeness.serving.http import shared_counts
from likeness.serving.http.shared_counts import SharedCounts

OTHER = """
import sys
from pathlib import Path
from likeness.core.errors import ServiceError
from likeness.serving.http.shared_counts import SharedCounts
try:
    counts = SharedCounts(Path(sys.argv[1]), 2)
except ServiceError as error:
    sys.exit(print(-1, 0, error))
print(counts.number, counts.before, flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Other:
    """Counts in another process, asked in Python."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.number, self.before = map(int, self._line().split()[:2])

    def ask(self, text: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(f"counts.{text}\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@contextmanager
def other(path: Path) -> Iterator[Other]:
    command = [sys.executable, "-c", OTHER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Other(process)
        process.kill()


def test_a_bucket_refills(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    counts = SharedCounts()
    assert [counts.wait("shop", 2, 3) for _ in range(4)] == [0, 0, 0, 0.5]
    assert counts.wait("other", 2, 3) == 0
    now += 0.25
    assert counts.wait("shop", 2, 3) == pytest.approx(0.25)
    now += 0.25
    assert [counts.wait("shop", 2, 3) for _ in range(2)] == [0, 0.5]
    now += 3600
    assert [counts.wait("shop", 2, 3) for _ in range(4)] == [0, 0, 0, 0.5]


def test_all_processes_take_from_one_bucket_and_hold_together(tmp_path: Path) -> None:
    counts = SharedCounts(tmp_path / "counts", 2)
    with other(tmp_path / "counts") as second:
        assert (counts.number, second.number) == (0, 1)
        assert counts.wait("shop", 0.001, 2) == 0
        assert second.ask("wait('shop', 0.001, 2)") == "0.0"
        assert counts.wait("shop", 0.001, 2) > 900
        assert float(second.ask("wait('shop', 0.001, 2)")) > 900
        assert counts.hold_one("shop", 2)
        assert second.ask("hold_one('shop', 2)") == "True"
        assert not counts.hold_one("shop", 2)
        counts.hold("shop", -1)
        assert second.ask("hold_one('shop', 2)") == "True"
        assert (counts.count("shop"), second.ask("count('shop')")) == (2, "2")
        with other(tmp_path / "counts") as third:
            assert third.number == -1


def test_what_a_killed_process_held_ends_with_it(tmp_path: Path) -> None:
    counts = SharedCounts(tmp_path / "counts", 2)
    counts.hold("bytes", 5)
    with other(tmp_path / "counts") as second:
        second.ask("hold('bytes', 70)")
        assert counts.count("bytes") == 75
        second.process.send_signal(signal.SIGKILL)
        second.process.wait(30)
        with other(tmp_path / "counts") as third:
            assert (third.number, third.before) == (1, second.process.pid)
            assert (counts.count("bytes"), third.ask("count('bytes')")) == (5, "5")


def test_more_names_than_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of which nothing is held give way; what is held stays."""
    monkeypatch.setattr(shared_counts, "_SLOTS", 64)
    counts = SharedCounts()
    counts.hold("held", 7)
    for number in range(500):
        assert counts.wait(f"name {number}", 0.001, 1) == 0
    assert counts.count("held") == 7
    assert counts.wait("name 499", 0.001, 1) > 900
