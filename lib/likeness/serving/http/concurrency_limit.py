"""A limit of concurrent requests of each key, which a request counts against once its body has arrived."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from likeness.serving.http.auth import IMAGES
from likeness.serving.http.shared_counts import SharedCounts

_IMAGES_MOST = 16
"""Thumbnails at once, at least: they are counted apart, because a page of results shows many."""


class ConcurrencyLimitMiddleware:
    """ASGI middleware: passes on at most `most` requests of each caller at once; 0 sets no limit.

    The caller is `state.caller`; requests without one have no limit. `refuse(code, detail, headers)` gives the response
    for `too_many`.
    """

    def __init__(
        self, app: ASGIApp, most: int, counts: SharedCounts, refuse: Callable[[str, str, dict[str, str]], ASGIApp]
    ) -> None:
        self._app, self._most, self._counts, self._refuse = app, most, counts, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        name = scope.get("state", {}).get("caller")
        if not self._most or name is None:
            return await self._app(scope, receive, send)
        images = scope["path"].startswith(IMAGES)
        most, what = (max(self._most, _IMAGES_MOST), "thumbnails") if images else (self._most, "requests")
        running = f"{what} at once of {name}"
        if not self._counts.hold_one(running, most):
            detail = f"{name} may send {most} {what} at once (serve.at_once)"
            return await self._refuse("too_many", detail, {"Retry-After": "1"})(scope, receive, send)
        try:
            return await self._app(scope, receive, send)
        finally:
            self._counts.hold(running, -1)
