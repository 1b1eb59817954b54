"""Connections of the HTTP server: how many may be open, and how long each may keep it waiting.   [uvicorn]

All times are totals: a client that sends or takes a byte now and then gains nothing.
"""

import asyncio
import resource
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from likeness.core.settings import Serve

_HEADER_BYTES = 1 << 16
"""Bytes of the headers of a request, at most."""
_MAX_PIPELINED = 16
"""Requests that a client may send before it has the answer to an earlier one; uvicorn keeps all that arrive."""


class Connections:
    """The open connections of a server, those that wait for a request in the order in which they began to."""

    def __init__(self, settings: Serve) -> None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # the rest is for files, decoders, leaves, and connections that the kernel has accepted meanwhile
        self.most = min(settings.connections, max(1, descriptors // 2))
        self.backlog = max(1, min(2048, descriptors // 8))
        self.settings = settings
        self.open, self.idle = set[BoundedConnection](), dict[BoundedConnection, None]()

    def make_room(self) -> None:
        """Closes connections that have been idle longest while there are too many."""
        while len(self.open) > self.most and self.idle:
            next(iter(self.idle)).end()


class BoundedConnection(HttpToolsProtocol):
    """One connection.

    It is ended if the headers of a request do not arrive in time, if the client does not take its answers, or sends too
    many requests ahead of them, and if it is idle and there are too many connections. The body has its time limit in
    `RequestBodyMiddleware`.
    """

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all = connections
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._header_bytes, self._in_body = 0, False
        self._answering: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts the connection, and waits for headers."""
        super().connection_made(transport)
        self._all.open.add(self)
        self._all.idle[self] = None
        self._await_headers()
        self._all.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it no more."""
        super().connection_lost(exc)
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Parses what arrived; the first byte after an answer starts the time for the next headers."""
        if self._header_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_headers()
        super().data_received(data)
        if self._header_timer is not None and not self._in_body:
            self._header_bytes += len(data)
        if self._header_bytes > _HEADER_BYTES or len(self.pipeline) > _MAX_PIPELINED:
            self.end()

    def on_headers_complete(self) -> None:
        """Begins a request."""
        self._stop_header_timer()
        self._in_body = True
        self._all.idle.pop(self, None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Ends the body of a request."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Waits for the next request, unless it is there."""
        super().on_response_complete()
        if self in self._all.open and self.cycle.response_complete:
            self._all.idle[self] = None

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """Waits for the client to take what was sent."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._all.settings.body_s, self.end)

    def resume_writing(self) -> None:
        """Goes on."""
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Ends an idle connection, whether its client takes what was sent or not."""
        self.end()

    def end(self) -> None:
        """Ends the connection at once."""
        self._forget()
        self.transport.abort()

    def _await_headers(self) -> None:
        self._header_bytes = 0
        self._header_timer = self.loop.call_later(self._all.settings.header_s, self.end)

    def _forget(self) -> None:
        self._all.open.discard(self)
        self._all.idle.pop(self, None)
        for cycle in filter(None, (self._answering, self.cycle)):
            cycle.disconnected = True  # so that it writes nothing any more
        self._stop_header_timer()
        self._stop_write_timer()

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def server_config(app: Callable[..., Any], settings: Serve, **options: Any) -> uvicorn.Config:
    """The configuration of a server whose connections are bounded by `serve`; `options` are further ones of uvicorn."""
    connections = Connections(settings)
    protocol: Any = partial(BoundedConnection, connections)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        backlog=connections.backlog,
        timeout_keep_alive=settings.idle_s,
        timeout_graceful_shutdown=settings.drain_s,
        log_level="warning",
        access_log=False,
        server_header=False,
        **options,
    )
