"""A source, a root and a keyed store on the stack, and how to run jobs on them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from tests import jvm
from tests.runs import PROJECT, Job, submitted

from likeness.core.settings import Settings, load_settings

from . import driver

LOCAL = ("--master", "local[2,4]", *jvm.spark_options())
ROLES = ("driver", "executor", "yarn.am")
QUICK = [word for role in ROLES for word in ("--conf", f"spark.{role}.extraJavaOptions={jvm.OPTIONS}")]
INTERPRETED = [word for conf in jvm.INTERPRETED for word in ("--conf", conf)]
YARN = ("--master", "yarn", *QUICK, *INTERPRETED, "--num-executors", "1", "--executor-memory", "1g")
YARN += ("--conf", "spark.executor.memoryOverhead=1500m", "--conf", "spark.driver.memoryOverhead=1g")
YARN += ("--conf", "spark.sql.shuffle.partitions=2")  # each of the usual 200 is a task, for INTERPRETED joins none
YARN += ("--conf", "spark.ui.enabled=false")  # a busy machine fails to start one: YARN adds a filter meanwhile


@dataclass(frozen=True)
class Place:
    """Settings, and the flags that say the same."""

    settings: Settings
    flags: Sequence[str]

    def start(self, job: str, options: Sequence[str] = (), flags: Sequence[str] = ()) -> Job:
        """A job in the long-lived driver, or with options of spark-submit in one of its own."""
        flags = [*self.flags, *flags]
        if options:
            return Job(*submitted(job, flags, options))
        return Job(driver.command(str(PROJECT / "jobs" / f"{job}.py"), *flags))

    def likeness(self, *words: str) -> tuple[int, str]:
        """The exit code and the output of a command of `likeness` on this root, in the long-lived driver."""
        settings = self.settings
        assignments = [f"keyed.uri={settings.keyed.uri}", f"extract.cache={settings.extract.cache}"]
        flags = ["--root", settings.root, *(word for text in assignments for word in ("--set", text))]
        with Job(driver.command("likeness.cli", *words, *flags)) as job:
            return job.code(), job.output


def place(source: str, root: str, cache: Path, keyed: str = "") -> Place:
    assignments = [f"keyed.uri={keyed}", f"extract.cache={cache}", "extract.chunk_images=20"]
    flags = ["--source", source, "--root", root, "--date", "2026-01-02"]
    settings = load_settings(None, {"source.uri": source, "root": root, "date": "2026-01-02"}, assignments)
    return Place(settings, flags + [word for text in assignments for word in ("--set", text)])


def workers(stack: Any) -> Iterator[psutil.Process]:
    """The processes in YARN's containers."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(stack.home / "data" / "nodemanager"):
                yield process
        except (psutil.Error, OSError):
            continue


def java(processes: Iterator[psutil.Process], name: str) -> psutil.Process:
    """The JVM of a class, of some processes."""
    return next(p for p in processes if p.name() == "java" and any(name in word for word in p.cmdline()))
