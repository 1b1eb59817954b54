"""Lines of a log, written by a thread of their own: who writes one never waits for the reader."""

import atexit
import functools
import queue
import sys
import threading
import time
from typing import TextIO

_MOST = 10_000
"""Lines that wait for the reader at most; further ones are dropped, and their number is written instead."""
_GATHER_S, _FAREWELL_S = 0.01, 2.0


class LineWriter:
    """Writes lines to a stream in order, many at once if they come faster than they are read."""

    def __init__(self, stream: TextIO, most: int = _MOST) -> None:
        self._stream, self._dropped, self._lock = stream, 0, threading.Lock()
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def __call__(self, line: str) -> None:
        """Adds a line; never waits."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            with self._lock:
                self._dropped += 1

    def close(self, within_s: float = _FAREWELL_S) -> None:
        """Writes the lines that wait, as far as they are read within some seconds."""
        try:
            self._lines.put(None, timeout=within_s)
        except queue.Full:
            return
        self._thread.join(within_s)

    def _write(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            time.sleep(_GATHER_S)  # a thread that wakes for each line would take its time from the others
            lines.extend(self._lines.get() for _ in range(self._lines.qsize()))
            ended = None in lines
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(f"log: {dropped} lines are lost, for nothing read them in time")
            try:
                self._stream.write("".join(f"{line}\n" for line in lines if line is not None))
                self._stream.flush()
            except OSError:  # a full disk may have room again
                with self._lock:
                    self._dropped += len(lines)
            except ValueError:  # the stream is closed
                return


@functools.cache
def _to_stderr() -> LineWriter:
    atexit.register(close_log)
    return LineWriter(sys.stderr)


def report_line(line: str) -> None:
    """Writes a line to standard error, by a thread."""
    _to_stderr()(line)


def close_log() -> None:
    """Writes the lines of `report_line` that wait, for a process that ends; later ones are not written."""
    _to_stderr().close()
