"""A limit of concurrent requests of each key, which a request counts against once its body has arrived."""

from collections import Counter
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class ConcurrencyLimitMiddleware:
    """ASGI middleware: passes on at most `most` requests of each caller at once; 0 sets no limit.

    The caller is `state.caller`; requests without one have no limit. `refuse(code, detail, headers)` gives the response
    for `too_many`.
    """

    def __init__(self, app: ASGIApp, most: int, refuse: Callable[[str, str, dict[str, str]], ASGIApp]) -> None:
        self._app, self._most, self._refuse = app, most, refuse
        self._running = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        name = scope.get("state", {}).get("caller")
        if not self._most or name is None:
            return await self._app(scope, receive, send)
        if self._running[name] >= self._most:
            detail = f"{name} may ask serve.at_once = {self._most} things at once"
            return await self._refuse("too_many", detail, {"Retry-After": "1"})(scope, receive, send)
        self._running[name] += 1
        try:
            return await self._app(scope, receive, send)
        finally:
            self._running[name] -= 1
