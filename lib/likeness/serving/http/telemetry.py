"""Telemetry of requests: figures for Prometheus and a log line each.   [prometheus-client]"""

import json
import re
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from likeness.serving.responses import Answer

_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Metrics:
    """The Prometheus metrics of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        histogram = partial(Histogram, registry=self.registry, buckets=_BUCKETS_S)
        self.stages = histogram("likeness_stage_seconds", "Seconds of a query by stage", ["stage"])
        self.requests = histogram("likeness_request_seconds", "Seconds of a request", ["route"])
        self.statuses = Counter("likeness_requests", "Requests by status", ["route", "status"], registry=self.registry)
        self.queries = Counter("likeness_queries", "Queries by category", ["category"], registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self.ready = gauge("likeness_ready", "1 when queries are answered")
        self.builds_age = gauge("likeness_builds_age_seconds", "Seconds since it was read which builds are published")
        self.hidden_age = gauge("likeness_hidden_age_seconds", "Seconds since the hidden products were read")

    def observe(self, answer: Answer) -> Answer:
        """Counts an answer and the time of its stages."""
        for stage, took in answer.took_ms.items():
            self.stages.labels(stage).observe(took / 1000)
        self.queries.labels(answer.category.predicted).inc()
        return answer


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
            line = {"request_id": request_id, "route": route, "status": status, "ms": round(1000 * took, 1)}
            self._log(json.dumps(line))
