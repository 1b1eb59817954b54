"""What is counted and said of every request.   [prometheus-client]"""

import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Metrics:
    """What Prometheus reads of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        spans = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
        self.stages = Histogram(
            "likeness_stage_seconds", "Seconds of a query by stage", ["stage"], registry=self.registry, buckets=spans
        )
        self.requests = Histogram(
            "likeness_request_seconds", "Seconds of a request", ["route"], registry=self.registry, buckets=spans
        )
        self.statuses = Counter("likeness_requests", "Requests by status", ["route", "status"], registry=self.registry)
        self.queries = Counter("likeness_queries", "Queries by category", ["category"], registry=self.registry)
        self.ready = Gauge("likeness_ready", "1 when queries are answered", registry=self.registry)

    def timed(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Counts an answer, and its stages."""
        for stage, took in answer["took_ms"].items():
            self.stages.labels(stage).observe(took / 1000)
        self.queries.labels(answer["category"]["predicted"]).inc()
        return answer


class TelemetryMiddleware:
    """ASGI middleware: each request gets a name (or keeps its own), is measured, and is a line of JSON in the log."""

    def __init__(self, app: Any, meters: Metrics, log: Callable[[str], None]) -> None:
        self._app, self._meters, self._log = app, meters, log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, and its answer back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        named = dict(scope["headers"]).get(b"x-request-id", b"")
        name = named.decode() if _REQUEST_ID.fullmatch(named) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = name
        begun, status = time.perf_counter(), 500

        async def tell(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self._app(scope, receive, tell)
        finally:
            took, route = time.perf_counter() - begun, getattr(scope.get("route"), "path", "none")
            self._meters.requests.labels(route).observe(took)
            self._meters.statuses.labels(route, status).inc()
            told = {"request_id": name, "route": route, "status": status, "ms": round(1000 * took, 1)}
            self._log(json.dumps(told))
