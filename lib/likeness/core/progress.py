"""Reports the progress of long work: a bar on a terminal, plain lines elsewhere.   [rich]"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY_S = 5.0


class Reporter:
    """Writes messages and progress to standard error; standard output is for results."""

    def __init__(self) -> None:
        # under spark-submit the JVM is between this process and the terminal, so the wrapper sets the variable
        terminal = True if os.environ.get("LIKENESS_TERMINAL") else None
        colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        self._console = Console(stderr=True, highlight=False, force_terminal=terminal, color_system=colours)

    def say(self, text: str) -> None:
        """Writes one line."""
        if self._console.is_terminal:
            self._console.print(text, markup=False)
        else:
            sys.stderr.write(f"{text}\n")  # in one write, so that lines of several threads do not mix
            sys.stderr.flush()

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator["Bar"]:
        """Shows the progress of `what` towards `total`, for the duration of a `with` block."""
        if not self._console.is_terminal:
            yield _Lines(self, what, total, unit)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
        with Progress(*columns, *times, console=self._console) as progress:
            yield _Drawn(progress, progress.add_task(what, total=total, note=""))


class Bar:
    """Takes the progress of one piece of work."""

    def at(self, done: float, note: str = "") -> None:
        """Sets the amount that is done, and a note to show beside it."""


class _Drawn(Bar):
    def __init__(self, progress: Progress, task: object) -> None:
        self._progress, self._task = progress, task

    def at(self, done: float, note: str = "") -> None:
        self._progress.update(self._task, completed=done, note=note)  # type: ignore[arg-type]


class _Lines(Bar):
    def __init__(self, reporter: Reporter, what: str, total: int, unit: str) -> None:
        self._reporter, self._what, self._total, self._unit = reporter, what, total, unit
        self._last = time.monotonic()

    def at(self, done: float, note: str = "") -> None:
        now, over = time.monotonic(), done >= self._total
        if (note and over) or (now - self._last >= _EVERY_S and not over):
            self._last = now
            share = f"{done:,.0f} of {self._total:,} {self._unit} ({done / max(1, self._total):.0%})"
            self._reporter.say(f"{self._what}: {share}{note and f': {note}'}")
