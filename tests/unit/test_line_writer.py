"""A log whose reader stands still holds nobody up, and says afterwards what it lacks."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import pytest

from likeness.core.line_writer import LineWriter

MOST, LINE = 50, "x" * 1000


@pytest.fixture
def pipe() -> Iterator[tuple[TextIO, TextIO]]:
    """Both ends of a pipe, which takes some 64 lines."""
    into, out = os.pipe()
    reader, stream = os.fdopen(into, encoding="utf-8"), os.fdopen(out, "w", encoding="utf-8")
    yield reader, stream
    reader.close()
    with contextlib.suppress(BrokenPipeError):
        stream.close()


def read_on(reader: TextIO, lines: list[str]) -> threading.Thread:
    """Reads lines to the end, in a thread."""
    thread = threading.Thread(target=lambda: lines.extend(reader))
    thread.start()
    return thread


def test_lines_arrive_whole_and_in_order(pipe: tuple[TextIO, TextIO]) -> None:
    reader, stream = pipe
    lines: list[str] = []
    reading, writer = read_on(reader, lines), LineWriter(stream)
    sent = [f"{number} é" for number in range(2000)]
    for line in sent:
        writer(line)
    writer.close()
    stream.close()
    reading.join()
    assert lines == [f"{line}\n" for line in sent]


def test_a_reader_that_stands_still_holds_nobody_up(pipe: tuple[TextIO, TextIO]) -> None:
    reader, stream = pipe
    writer, start = LineWriter(stream, MOST), time.monotonic()
    for _ in range(5000):
        writer(LINE)
    assert time.monotonic() - start < 5
    lines: list[str] = []
    reading = read_on(reader, lines)
    time.sleep(0.2)
    writer("last")
    writer.close()
    stream.close()
    reading.join()
    assert lines[-1] == "last\n"
    lost = sum(int(line.split()[1]) for line in lines if line.startswith("log: "))
    assert lost > 0
    assert lines.count(f"{LINE}\n") + lost == 5000


def test_nobody_waits_long_for_a_reader_at_the_end(pipe: tuple[TextIO, TextIO]) -> None:
    reader, stream = pipe
    writer = LineWriter(stream, MOST)
    for _ in range(200):
        writer(LINE)
    start = time.monotonic()
    writer.close(0.2)
    assert time.monotonic() - start < 2
    reader.close()
    writer.close()


def test_a_reader_that_is_gone_is_no_error(pipe: tuple[TextIO, TextIO]) -> None:
    reader, stream = pipe
    reader.close()
    writer = LineWriter(stream)
    for _ in range(100):
        writer(LINE)
    writer.close()
