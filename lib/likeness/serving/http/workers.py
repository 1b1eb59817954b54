"""Worker processes of a server: they take turns at one socket; limits and metrics hold for all of them.   [uvicorn]"""

import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from prometheus_client import multiprocess
from uvicorn.supervisors import Multiprocess

from likeness.core import garbage, malloc
from likeness.core.line_writer import close_log
from likeness.core.settings import Settings
from likeness.serving.http.app import create_app, stop_with_server
from likeness.serving.http.connections import server_config
from likeness.serving.http.shared_counts import SharedCounts
from likeness.serving.http.telemetry import SHARED, Metrics, metrics_listener, registry_of_all
from likeness.serving.service import Service

_HEALTH_S = 15
"""Seconds without a sign of life after which a worker is replaced; one that loads a build gives signs."""


@dataclass
class Worker:
    """One worker: makes its application, once it is in its own process; `report` says what happens."""

    settings: Settings
    report: Callable[[str], None]
    counts: Path
    workers: int
    _metrics: Metrics | None = field(default=None, init=False)

    def __call__(self) -> FastAPI:
        """The application of a service that is started, and stopped with the server."""
        malloc.set_mmap_threshold(malloc.LARGE)
        counts = SharedCounts(self.counts, self.workers)
        if counts.before:
            multiprocess.mark_process_dead(counts.before)  # type: ignore[no-untyped-call]
        service = Service(self.settings, self.report)
        app = create_app(service, self.report, counts)
        self._metrics = app.state.metrics
        service.start()
        garbage.collect_rarely()
        instead = f", instead of process {counts.before}" if counts.before else ""
        self.report(f"worker {counts.number + 1} of {self.workers} answers{instead}")
        stop_with_server(app, service.stop, close_log)
        return app

    async def share(self) -> None:
        """Writes metrics down that other processes may be asked for; ends the worker if its parent was killed."""
        parent = multiprocessing.parent_process()
        if parent and not parent.is_alive():
            signal.raise_signal(signal.SIGTERM)
        if self._metrics:
            self._metrics.share()


def run_workers(
    settings: Settings,
    listener: socket.socket,
    workers: int,
    report: Callable[[str], None],
    listening: Callable[[], None],
    **options: Any,
) -> None:
    """Answers on a socket that listens, with some processes, until SIGTERM or SIGINT; one that dies is replaced.

    Args:
        settings: of the service.
        listener: the socket.
        workers: processes.
        report: says what happens; a function of a module, for processes take it by its name.
        listening: is called once nothing that the settings name is in the way.
        options: further ones of `server_config`.

    Raises:
        UsageError: `serve.metrics_port` cannot be listened on.
    """
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    with tempfile.TemporaryDirectory(prefix="likeness-serve-") as folder:
        metrics = Path(folder, "metrics")
        metrics.mkdir()
        worker = Worker(settings, report, Path(folder, "counts"), workers)
        with _environment({SHARED: str(metrics), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}):
            host = listener.getsockname()[0]
            with metrics_listener(registry_of_all(), host, settings.serve.metrics_port):
                listening()
                config = server_config(
                    worker,
                    settings.serve,
                    factory=True,
                    workers=workers,
                    callback_notify=worker.share,
                    timeout_notify=1,
                    timeout_worker_healthcheck=_HEALTH_S,
                    **options,
                )
                Multiprocess(config, [listener]).run()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables of the environment, which processes started meanwhile have as well."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
