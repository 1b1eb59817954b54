"""What holds for every path alike: HEAD, gzip, names of the host, and CORS.   [starlette]"""

import re
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEALTH = ("/healthz", "/readyz")
"""Paths that health checks ask for, which name a machine by its address."""
_EXPOSED = ("X-Request-Id", "Retry-After", "ETag", "Allow", "WWW-Authenticate")
_PREFLIGHT_S = 3600


class HeadMiddleware:
    """ASGI middleware: answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; one with HEAD as one with GET."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self._app(scope, receive, send)

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        return await self._app({**scope, "method": "GET"}, receive, send_head)  # the server reads HEAD from its own


class CompressionMiddleware(GZipMiddleware):
    """ASGI middleware: compresses what is worth it for clients that take gzip; others' requests go straight on.

    Responses that a cache may keep say `Vary` themselves.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and its response back."""
        if scope["type"] == "http" and any(
            name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"]
        ):
            return await super().__call__(scope, receive, send)
        return await self.app(scope, receive, send)


class HostMiddleware:
    """ASGI middleware: refuses requests to host names that are not this service's, but for health checks.

    `hosts` are names, or `*.` and the end of names. `refuse(code, detail)` gives the response: an ASGI application.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str], refuse: Callable[[str, str], ASGIApp]) -> None:
        self._app, self._refuse = app, refuse
        self._names = frozenset(host.lower() for host in hosts if not host.startswith("*"))
        self._ends = tuple(host[1:].lower() for host in hosts if host.startswith("*"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http" or scope["path"] in HEALTH:
            return await self._app(scope, receive, send)
        sent = Headers(scope=scope).get("host", "")
        name = re.sub(r":\d*$", "", sent).lower()
        if name in self._names or (self._ends and name.endswith(self._ends)):
            return await self._app(scope, receive, send)
        detail = f"host {sent[:100]!r} is not served here; use the address that the service was given to you under"
        return await self._refuse("bad_request", detail)(scope, receive, send)


class CorsMiddleware(CORSMiddleware):
    """Lets pages of some origins ask; who is refused gets an error of this API."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], refuse: Callable[[str, str], ASGIApp]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            max_age=_PREFLIGHT_S,
        )
        self._refuse = refuse

    def preflight_response(self, request_headers: Headers) -> Response:
        """The response to a browser that asks whether a page may."""
        response = super().preflight_response(request_headers)
        return _Refused(response, self._refuse) if response.status_code >= 400 else response


class _Refused(Response):
    """A problem with the headers of another response."""

    def __init__(self, response: Response, refuse: Callable[[str, str], ASGIApp]) -> None:
        super().__init__(response.body, response.status_code)
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        self._kept = [(name.encode(), value.encode()) for name, value in kept.items()]
        self._problem = refuse("bad_request", bytes(response.body).decode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._kept]}
            await send(message)

        await self._problem(scope, receive, send_with_headers)
