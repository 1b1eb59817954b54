"""Telemetry of requests: figures for Prometheus and a log line each.   [prometheus-client]"""

import ipaddress
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from likeness.core.errors import UsageError
from likeness.serving.http.auth import NOBODY
from likeness.serving.responses import Answer
from likeness.serving.service import Service

_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_ADDRESSES, _OTHERS = 1000, "others"
"""Addresses that are counted one by one; the requests of further ones are counted together."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder in which processes of a server share their figures."""


class Metrics:
    """The Prometheus metrics of one service; `registry` has those of all processes of the server."""

    def __init__(self, service: Service) -> None:
        self.registry = registry_of_all() if os.environ.get(SHARED) else CollectorRegistry()
        registry = None if os.environ.get(SHARED) else self.registry
        histogram = partial(Histogram, registry=registry, buckets=_BUCKETS_S)
        self.stages = histogram("likeness_stage_seconds", "Seconds of a query by stage", ["stage"])
        self.requests = histogram("likeness_request_seconds", "Seconds of a request", ["route"])
        self.statuses = Counter("likeness_requests", "Requests by status", ["route", "status"], registry=registry)
        self.queries = Counter("likeness_queries", "Queries by category", ["category"], registry=registry)
        names = ["caller", "address"]
        self.callers = Counter("likeness_caller_requests", "Requests by key and address", names, registry=registry)
        self._addresses = set[str]()
        self._shared_gauges = list[tuple[Gauge, Callable[[], float]]]()
        gauges: Sequence[tuple[str, str, Literal["livemin", "livemax"], Callable[[], float]]] = (
            ("ready", "1 when queries are answered", "livemin", lambda: float(not service.problem)),
            (
                "builds_age_seconds",
                "Seconds since it was read which builds are published",
                "livemax",
                lambda: service.builds.age_s,
            ),
            (
                "hidden_age_seconds",
                "Seconds since the hidden products were read",
                "livemax",
                lambda: service.hidden.age_s,
            ),
        )
        for name, meaning, worst, read in gauges:
            gauge = Gauge(f"likeness_{name}", meaning, registry=registry, multiprocess_mode=worst)
            if registry:
                gauge.set_function(read)
            else:
                self._shared_gauges.append((gauge, read))

    def observe(self, answer: Answer) -> Answer:
        """Counts an answer and the time of its stages."""
        for stage, took in answer.took_ms.items():
            self.stages.labels(stage).observe(took / 1000)
        self.queries.labels(answer.category.predicted).inc()
        return answer

    def count_caller(self, caller: str, address: str) -> None:
        """Counts a request by the name of its key and its address, of IPv6 by its /64 network."""
        network = _network(address)
        if len(self._addresses) < _ADDRESSES:
            self._addresses.add(network)
        self.callers.labels(caller, network if network in self._addresses else _OTHERS).inc()

    def share(self) -> None:
        """Writes down what is measured when it is asked for, so that other processes of the server can read it."""
        for gauge, read in self._shared_gauges:
            gauge.set(read())

    def text(self) -> bytes:
        """All figures, in the text format of Prometheus."""
        self.share()
        return generate_latest(self.registry)


@lru_cache(_ADDRESSES)
def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return NOBODY
    return str(parsed if parsed.version == 4 else ipaddress.ip_network((int(parsed), 64), strict=False))


def registry_of_all() -> CollectorRegistry:
    """The figures of all processes of a server, from the folder that they share."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


@contextmanager
def metrics_listener(registry: CollectorRegistry, host: str, port: int) -> Iterator[None]:
    """Serves metrics on a port of their own while the context is open; does nothing if the port is 0.

    Raises:
        UsageError: the port cannot be listened on.
    """
    if not port:
        yield
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise UsageError(f"serve.metrics_port = {port} at {host}: {error.strerror}; name another port") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class TelemetryMiddleware:
    """ASGI middleware: gives each request an id (or keeps its own), measures it, and logs a line of JSON."""

    def __init__(self, app: Any, metrics: Metrics, log: Callable[[str], None]) -> None:
        self._app, self._metrics, self._log = app, metrics, log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on and its response back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = sent.decode() if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        start, status = time.perf_counter(), 500

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            took, route = time.perf_counter() - start, getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route).observe(took)
            self._metrics.statuses.labels(route, status).inc()
            caller, address = scope["state"].get("caller", NOBODY), (scope.get("client") or (NOBODY,))[0]
            self._metrics.count_caller(caller, address)
            line = {"request_id": request_id, "route": route, "status": status, "ms": round(1000 * took, 1)}
            self._log(json.dumps(line | {"caller": caller, "address": address}, ensure_ascii=False))
