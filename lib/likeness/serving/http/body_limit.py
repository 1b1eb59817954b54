"""Limits of request bodies: too large or too slow a body is refused before the application has read it."""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TIMEOUT_S = 30.0
_DISCONNECT: Message = {"type": "http.disconnect"}


class BodyLimitMiddleware:
    """ASGI middleware: refuses bodies of more than `max_bytes`, and those that do not arrive in time.

    `refuse(code, detail)` gives the response for `too_large` and `slow`: an ASGI application.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, refuse: Callable[[str, str], ASGIApp]) -> None:
        self._app, self._max_bytes, self._refuse = app, max_bytes, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on; responds with a refusal if its body is refused meanwhile."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        refused, received, responding = "", 0, False

        async def limited_receive() -> Message:
            nonlocal refused, received
            try:
                message = await asyncio.wait_for(receive(), None if responding else _TIMEOUT_S)
            except TimeoutError:
                refused, message = "slow", _DISCONNECT
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                refused = "too_large"
            return _DISCONNECT if refused else message

        async def limited_send(message: Message) -> None:
            nonlocal responding
            responding = True
            if not refused:
                await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self._max_bytes:
            refused = "too_large"
        else:
            try:
                await self._app(scope, limited_receive, limited_send)
            except Exception:
                if not refused:
                    raise
        if refused:
            details = {"too_large": f"a body of at most {self._max_bytes} bytes is taken", "slow": "send it faster"}
            await self._refuse(refused, details[refused])(scope, receive, send)
        return None
